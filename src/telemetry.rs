//! Logs: plain on a terminal, one JSON object a line elsewhere.
