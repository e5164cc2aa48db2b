//! Where the stages meet: read -> process -> deliver -> commit.
