//! Schema -> BigQuery table, writer descriptor and rows.
