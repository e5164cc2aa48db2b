//! Prints records as JSON lines.
