//! The body of an answer: a text that is there, or a stream that goes on (watches).

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use http_body::{Frame, SizeHint};
use tower::BoxError;

/// What `ApiService` answers with; layers around it may build their own.
pub struct ApiBody(Kind);

enum Kind {
    Once(Option<Bytes>),
    Stream(BoxStream<'static, Result<Bytes, BoxError>>),
}

impl ApiBody {
    /// A body that arrives piece by piece.
    #[must_use]
    pub fn stream(pieces: BoxStream<'static, Result<Bytes, BoxError>>) -> Self {
        Self(Kind::Stream(pieces))
    }

    /// Whether it is a stream that has no known end.
    #[must_use]
    pub fn is_stream(&self) -> bool {
        matches!(self.0, Kind::Stream(_))
    }

    /// Its pieces, so that a layer can cut or delay them.
    #[must_use]
    pub fn into_stream(self) -> BoxStream<'static, Result<Bytes, BoxError>> {
        match self.0 {
            Kind::Once(text) => futures::stream::iter(text.map(Ok)).boxed(),
            Kind::Stream(pieces) => pieces,
        }
    }
}

impl From<Bytes> for ApiBody {
    fn from(text: Bytes) -> Self {
        Self(Kind::Once((!text.is_empty()).then_some(text)))
    }
}

impl fmt::Debug for ApiBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiBody").field("stream", &self.is_stream()).finish_non_exhaustive()
    }
}

impl http_body::Body for ApiBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.0 {
            Kind::Once(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Kind::Stream(pieces) => {
                pieces.poll_next_unpin(context).map(|piece| piece.map(|piece| piece.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.0, Kind::Once(None))
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Once(text) => {
                SizeHint::with_exact(text.as_ref().map_or(0, Bytes::len).try_into().unwrap_or(u64::MAX))
            }
            Kind::Stream(_) => SizeHint::default(),
        }
    }
}
