//! `PlanError`: what is wrong with a plan, as far as the plan alone can say.

use thiserror::Error;

use crate::flow::version::Rke2Version;

/// A plan that must not be started.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PlanError {
    /// A field that must say something is empty.
    #[error("the plan's `{field}` is empty; fill it in")]
    Empty {
        /// Which field.
        field: &'static str,
    },
    /// The uid is none.
    #[error("the plan's `upgradeUID` is `{0}`; copy metadata.uid of the Upgrade")]
    BadUid(String),
    /// A time that is no time.
    #[error("the plan's `evacuation.{field}` is {seconds}; give 1 to 86400 seconds")]
    BadSeconds {
        /// Which field.
        field: &'static str,
        /// What it says.
        seconds: u32,
    },
    /// `to` is not newer than `from`.
    #[error(
        "the plan goes from {from} to {to}, which is not newer; downgrades are not supported by Kubernetes"
    )]
    NotNewer {
        /// Version before.
        from: Rke2Version,
        /// Version after.
        to: Rke2Version,
    },
    /// A minor is skipped.
    #[error("the plan goes from {from} to {to} and skips a Kubernetes minor; upgrade one minor at a time")]
    SkipsMinor {
        /// Version before.
        from: Rke2Version,
        /// Version after.
        to: Rke2Version,
    },
    /// A digest that is no sha256.
    #[error("the plan's `{field}` is `{digest}`; it must be the 64 hexadecimal digits that sha256sum prints")]
    BadDigest {
        /// Which field.
        field: String,
        /// What it says.
        digest: String,
    },
    /// A source that this version cannot read.
    #[error("the plan's `{field}` is `{source_text}`, which {why}")]
    BadSource {
        /// Which field.
        field: String,
        /// What it says.
        source_text: String,
        /// What is wrong with it, and the cure.
        why: &'static str,
    },
    /// Something in the plan that this version cannot do.
    #[error(
        "the plan asks for `{0}`, which this version of upgrade-agent cannot do; take it out of the plan"
    )]
    Unsupported(&'static str),
}
