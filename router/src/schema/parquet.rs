//! Schema -> Parquet columns.
