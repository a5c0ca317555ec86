//! Asks a plain-HTTP health port on the loopback (kubelet's `/healthz`, etcd's `/health`). Speaks just enough HTTP/1.0
//! for that; TLS ports are not for this module.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A health answer is a word or a small JSON; the rest is cut off.
const MAX_ANSWER: u64 = 64 * 1024;

/// Why a port gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// Nobody listens, or the connection broke.
    #[error("no answer from http://{addr}{path}; see whether its service runs")]
    NoAnswer {
        /// The port.
        addr: SocketAddr,
        /// What was asked for.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Somebody listens and is silent.
    #[error("http://{addr}{path} said nothing for {deadline:?}; see whether its service hangs")]
    TimedOut {
        /// The port.
        addr: SocketAddr,
        /// What was asked for.
        path: String,
        /// How long it had.
        deadline: Duration,
    },
    /// Something else than HTTP was answered.
    #[error("http://{addr}{path} does not speak HTTP; see which program owns the port")]
    NotHttp {
        /// The port.
        addr: SocketAddr,
        /// What was asked for.
        path: String,
    },
}

/// `GET path`: the status code and the body (at most 64 KiB). Any status is an answer.
///
/// # Errors
/// See [`ProbeError`].
pub(super) async fn http_get(
    addr: SocketAddr,
    path: &str,
    deadline: Duration,
) -> Result<(u16, String), ProbeError> {
    let path_of = || path.to_owned();
    let answer = match tokio::time::timeout(deadline, ask(addr, path)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(source)) => {
            return Err(ProbeError::NoAnswer { addr, path: path_of(), source });
        }
        Err(_elapsed) => {
            return Err(ProbeError::TimedOut { addr, path: path_of(), deadline });
        }
    };
    parse(&answer).ok_or_else(|| ProbeError::NotHttp { addr, path: path_of() })
}

async fn ask(addr: SocketAddr, path: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(addr).await?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer).await?;
    Ok(answer)
}

/// Connects and hangs up.
pub(super) async fn connect(addr: SocketAddr, deadline: Duration) -> std::io::Result<()> {
    tokio::time::timeout(deadline, TcpStream::connect(addr)).await??;
    Ok(())
}

fn parse(answer: &[u8]) -> Option<(u16, String)> {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.")?.split_ascii_whitespace().nth(1)?;
    Some((status.parse().ok()?, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn serve(answer: Option<&'static str>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            assert_ne!(stream.read(&mut request).await.unwrap(), 0);
            match answer {
                Some(answer) => stream.write_all(answer.as_bytes()).await.unwrap(),
                None => std::future::pending().await,
            }
        });
        addr
    }

    const SOON: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn gives_status_and_body() {
        let addr =
            serve(Some("HTTP/1.1 503 Service Unavailable\r\nA: b\r\n\r\n{\"health\":\"false\"}")).await;
        assert_eq!(
            http_get(addr, "/health", SOON).await.unwrap(),
            (503, "{\"health\":\"false\"}".to_owned())
        );
    }

    #[tokio::test]
    async fn tells_silence_refusal_and_nonsense_apart() {
        let silent = serve(None).await;
        let error = http_get(silent, "/healthz", Duration::from_millis(50)).await.unwrap_err();
        assert!(matches!(error, ProbeError::TimedOut { .. }), "{error}");
        let nonsense = serve(Some("SSH-2.0-x\r\n")).await;
        assert!(matches!(http_get(nonsense, "/", SOON).await, Err(ProbeError::NotHttp { .. })));
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        assert!(matches!(http_get(closed, "/", SOON).await, Err(ProbeError::NoAnswer { .. })));
    }
}
