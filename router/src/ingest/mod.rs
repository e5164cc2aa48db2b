//! STAGE 1: sources. They accept input, turn it into records, append blocks to the journal, and acknowledge (or
//! advance their position) only when the append is durable.
pub mod file;
pub mod gather;
pub mod http;
pub mod link;
pub mod parse;
