//! Signals to one cancellation token.
