//! Why one record failed, or why the plugin could not start.

use std::fmt;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A text for a person. Like `anyhow::Error` it takes any error by `?`, and for that is itself no `std` error.
pub struct Error(String);

impl Error {
    pub fn new(text: impl fmt::Display) -> Error {
        Error(text.to_string())
    }
}

impl<E: std::error::Error> From<E> for Error {
    fn from(error: E) -> Error {
        Error::new(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
