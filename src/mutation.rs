//! Faults put into this very product, one at a time, to show that rehearsals find them. They exist in test builds only:
//! everywhere else [`is_on`] is a constant `false`. Whoever asks says in one line which rule it breaks.

/// A rule broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutation {
    /// A journal line is called durable without a sync.
    SkipSync,
    /// A new journal is called durable without its name being so.
    SkipDirectorySync,
    /// The cluster hears of a journal line before it is written.
    PublishBeforeAppend,
    /// The swap asks nobody.
    SwapWithoutGate,
    /// One VM of the node is left out of the ledger.
    ForgetOneVm,
    /// The fence is not raised, and said to be up.
    DropTheFence,
    /// A stop is asked for again after every start of the agent, heard or not.
    RepeatTheStop,
    /// The new binary is copied over the live one instead of being renamed into place.
    CopyOverLive,
    /// The run is called done while the node still carries its marks.
    LeaveTheMarks,
    /// A server that is done keeps the other servers waiting.
    KeepTheTurn,
    /// A hold says what it waits for, and not who is off meanwhile.
    NameNobodyOwed,
    /// A VM whose migration fails is shut down, whatever the plan says.
    StopWhatDoesNotMove,
    /// A VM that cannot be started is struck off, and the run goes on.
    StrikeWhatDoesNotStart,
}

#[cfg(test)]
impl Mutation {
    pub(crate) const ALL: [Self; 13] = [
        Self::SkipSync,
        Self::SkipDirectorySync,
        Self::PublishBeforeAppend,
        Self::SwapWithoutGate,
        Self::ForgetOneVm,
        Self::DropTheFence,
        Self::RepeatTheStop,
        Self::CopyOverLive,
        Self::LeaveTheMarks,
        Self::KeepTheTurn,
        Self::NameNobodyOwed,
        Self::StopWhatDoesNotMove,
        Self::StrikeWhatDoesNotStart,
    ];
}

/// Is this rule broken now? Never outside of tests.
#[cfg(not(test))]
#[must_use]
pub(crate) const fn is_on(_mutation: Mutation) -> bool {
    false
}

#[cfg(test)]
thread_local! {
    static BROKEN: std::cell::Cell<Option<Mutation>> = const { std::cell::Cell::new(None) };
}

/// Is this rule broken now?
#[cfg(test)]
#[must_use]
pub(crate) fn is_on(mutation: Mutation) -> bool {
    BROKEN.get() == Some(mutation)
}

/// Breaks one rule on this thread until the guard is dropped.
#[cfg(test)]
pub(crate) fn break_rule(mutation: Mutation) -> impl Drop {
    struct Mend;
    impl Drop for Mend {
        fn drop(&mut self) {
            BROKEN.set(None);
        }
    }
    BROKEN.set(Some(mutation));
    Mend
}
