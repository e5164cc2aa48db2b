//! The agents of a fleet and what they owe one another. Today: the ledger of one node.

pub mod ledger;
