//! `StepError`: why a step did not end, and what the driver is to do about it. Chosen where the knowledge is.

use std::error::Error;

use thiserror::Error;

use crate::cluster::ClusterError;
use crate::host::fence::FenceError;
use crate::host::fs::FsError;
use crate::host::systemd::SystemdError;
use crate::journal::JournalError;
pub use crate::telemetry::chain;

/// What the driver is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaction {
    /// Try the step again until its deadline.
    Retry,
    /// Hold: an operator has to do something first.
    AskOperator,
    /// The agent refuses to go on with this; nothing of the step was done.
    Refuse,
    /// The agent was told to stop; the next start goes on.
    Interrupted,
    /// The journal cannot be written: stop at once, touch nothing.
    Fatal,
}

/// Why a step did not end.
#[derive(Debug, Error)]
#[error("{what}")]
pub struct StepError {
    /// What to do about it.
    pub reaction: Reaction,
    what: String,
    #[source]
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl StepError {
    /// An operator is needed; `what` names the object, the cause and the cure.
    pub fn operator(what: impl Into<String>) -> Self {
        Self { reaction: Reaction::AskOperator, what: what.into(), source: None }
    }

    /// The agent refuses; `what` names the object, the cause and the cure.
    pub fn refuse(what: impl Into<String>) -> Self {
        Self { reaction: Reaction::Refuse, what: what.into(), source: None }
    }

    /// Try again; `what` names what is waited for.
    pub fn retry(what: impl Into<String>) -> Self {
        Self { reaction: Reaction::Retry, what: what.into(), source: None }
    }

    /// The agent was told to stop.
    #[must_use]
    pub fn interrupted() -> Self {
        Self { reaction: Reaction::Interrupted, what: "the agent was told to stop".to_owned(), source: None }
    }

    fn from_error(reaction: Reaction, error: &(dyn Error + 'static)) -> Self {
        Self { reaction, what: chain(error), source: None }
    }

    /// The whole chain in one line.
    #[must_use]
    pub fn sentence(&self) -> String {
        chain(self)
    }
}

impl From<ClusterError> for StepError {
    fn from(error: ClusterError) -> Self {
        let reaction = if error.is_passing() { Reaction::Retry } else { Reaction::AskOperator };
        Self::from_error(reaction, &error)
    }
}

impl From<JournalError> for StepError {
    fn from(error: JournalError) -> Self {
        Self::from_error(Reaction::Fatal, &error)
    }
}

impl From<SystemdError> for StepError {
    fn from(error: SystemdError) -> Self {
        let reaction = match error {
            // The bus may be restarting.
            SystemdError::NoBus { .. } | SystemdError::Bus { .. } => Reaction::Retry,
            SystemdError::NoSuchUnit { .. }
            | SystemdError::Refused { .. }
            | SystemdError::TimedOut { .. }
            | SystemdError::Failed { .. } => Reaction::AskOperator,
        };
        Self::from_error(reaction, &error)
    }
}

impl From<FenceError> for StepError {
    fn from(error: FenceError) -> Self {
        Self::from_error(Reaction::AskOperator, &error)
    }
}

impl From<std::io::Error> for StepError {
    fn from(error: std::io::Error) -> Self {
        Self::from_error(Reaction::AskOperator, &error)
    }
}

impl From<FsError> for StepError {
    fn from(error: FsError) -> Self {
        Self::from_error(Reaction::AskOperator, &error)
    }
}
