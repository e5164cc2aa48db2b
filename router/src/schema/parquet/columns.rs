//! Column buffers: what is collected for the next row group.

use parquet::basic::Type as Physical;
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, DoubleType, FloatType, Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};

use super::plan::{Leaf, Plan};
use super::{Extra, shred};
use crate::schema::Error;

/// Values of bytes, or nulls, handed to the encoder at once.
const BYTES_AT_ONCE: usize = 1_024;

/// Records of one schema, shredded into columns.
#[derive(Debug)]
pub struct Columns {
    columns: Vec<Column>,
    /// Lengths of the columns before the record that is being added.
    marks: Vec<Mark>,
    row_count: usize,
}

/// One leaf's values with their levels. A level that can only be 0 is not kept.
#[derive(Debug)]
pub(super) struct Column {
    leaf: Leaf,
    definitions: Vec<i16>,
    repetitions: Vec<i16>,
    values: Values,
}

#[derive(Debug)]
enum Values {
    Bool(Vec<bool>),
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    Float(Vec<f32>),
    Double(Vec<f64>),
    /// All values one behind the other, and where each ends.
    Bytes {
        joined: Vec<u8>,
        ends: Vec<usize>,
    },
}

#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    definitions: usize,
    repetitions: usize,
    values: usize,
}

/// A value on its way into a column.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cell<'a> {
    Bool(bool),
    Int32(i32),
    Int64(i64),
    Float(f32),
    Double(f64),
    Bytes(&'a [u8]),
}

/// Repetition and definition level of what is written next.
#[derive(Clone, Copy, Debug)]
pub(super) struct Levels {
    pub(super) repetition: i16,
    pub(super) definition: i16,
}

impl Columns {
    pub fn new(plan: &Plan) -> Columns {
        let columns: Vec<Column> = plan.leaves.iter().map(|&leaf| Column::new(leaf)).collect();
        Columns { marks: vec![Mark::default(); columns.len()], columns, row_count: 0 }
    }

    /// Adds one record. Where it is refused, nothing of it stays. `plan` is the one these columns were made for.
    pub fn push(&mut self, plan: &Plan, message: &[u8], extra: Extra<'_>) -> Result<(), Error> {
        for (mark, column) in self.marks.iter_mut().zip(&self.columns) {
            *mark = column.mark();
        }
        let shredded = shred::record(plan, message, extra, &mut self.columns);
        match shredded {
            Ok(()) => self.row_count += 1,
            Err(_) => self.columns.iter_mut().zip(&self.marks).for_each(|(column, mark)| column.cut(mark)),
        }
        shredded
    }

    pub fn row_count(&self) -> usize {
        self.row_count
    }

    /// Bytes held, about.
    pub fn len_bytes(&self) -> usize {
        self.columns.iter().map(Column::len_bytes).sum()
    }

    /// Writes what was collected as one row group; empty afterwards, also where it fails.
    pub fn write<W: std::io::Write + Send>(&mut self, file: &mut SerializedFileWriter<W>) -> Result<(), ParquetError> {
        let written = self.write_group(file);
        // New buffers rather than emptied ones: dozens of partitions must not each keep their largest.
        self.columns.iter_mut().for_each(|column| *column = Column::new(column.leaf));
        self.row_count = 0;
        written
    }

    fn write_group<W: std::io::Write + Send>(&self, file: &mut SerializedFileWriter<W>) -> Result<(), ParquetError> {
        let mut group = file.next_row_group()?;
        for column in &self.columns {
            let Some(mut writer) = group.next_column()? else {
                return Err(ParquetError::General("schema has fewer columns than the plan".into()));
            };
            column.write(&mut writer)?;
            writer.close()?;
        }
        group.close()?;
        Ok(())
    }
}

impl Column {
    fn new(leaf: Leaf) -> Column {
        let values = match leaf.physical {
            Physical::BOOLEAN => Values::Bool(Vec::new()),
            Physical::INT32 => Values::Int32(Vec::new()),
            Physical::INT64 => Values::Int64(Vec::new()),
            Physical::FLOAT => Values::Float(Vec::new()),
            Physical::DOUBLE => Values::Double(Vec::new()),
            Physical::INT96 | Physical::BYTE_ARRAY | Physical::FIXED_LEN_BYTE_ARRAY => {
                Values::Bytes { joined: Vec::new(), ends: Vec::new() }
            }
        };
        Column { leaf, definitions: Vec::new(), repetitions: Vec::new(), values }
    }

    /// Nothing here, or in something above: `levels.definition` says how much of the path is there.
    pub(super) fn push_null(&mut self, levels: Levels) {
        if self.leaf.definition_max > 0 {
            self.definitions.push(levels.definition);
        }
        if self.leaf.repetition_max > 0 {
            self.repetitions.push(levels.repetition);
        }
    }

    /// The value of a path that is there in full.
    pub(super) fn push(&mut self, repetition: i16, cell: Cell<'_>) -> Result<(), String> {
        match (&mut self.values, cell) {
            (Values::Bool(values), Cell::Bool(value)) => values.push(value),
            (Values::Int32(values), Cell::Int32(value)) => values.push(value),
            (Values::Int64(values), Cell::Int64(value)) => values.push(value),
            (Values::Float(values), Cell::Float(value)) => values.push(value),
            (Values::Double(values), Cell::Double(value)) => values.push(value),
            (Values::Bytes { joined, ends }, Cell::Bytes(value)) => {
                joined.extend_from_slice(value);
                ends.push(joined.len());
            }
            // The plan made the columns and names them: reached only if the two disagree, and then the record is kept
            // out of the file rather than put into a wrong column.
            _ => return Err("column has another type than its field".to_owned()),
        }
        self.push_null(Levels { repetition, definition: self.leaf.definition_max });
        Ok(())
    }

    fn mark(&self) -> Mark {
        let values = match &self.values {
            Values::Bool(values) => values.len(),
            Values::Int32(values) => values.len(),
            Values::Int64(values) => values.len(),
            Values::Float(values) => values.len(),
            Values::Double(values) => values.len(),
            Values::Bytes { ends, .. } => ends.len(),
        };
        Mark { definitions: self.definitions.len(), repetitions: self.repetitions.len(), values }
    }

    fn cut(&mut self, mark: &Mark) {
        self.definitions.truncate(mark.definitions);
        self.repetitions.truncate(mark.repetitions);
        match &mut self.values {
            Values::Bool(values) => values.truncate(mark.values),
            Values::Int32(values) => values.truncate(mark.values),
            Values::Int64(values) => values.truncate(mark.values),
            Values::Float(values) => values.truncate(mark.values),
            Values::Double(values) => values.truncate(mark.values),
            Values::Bytes { joined, ends } => {
                ends.truncate(mark.values);
                joined.truncate(ends.last().copied().unwrap_or(0));
            }
        }
    }

    fn len_bytes(&self) -> usize {
        let values = match &self.values {
            Values::Bool(values) => values.len(),
            Values::Int32(values) => values.len() * 4,
            Values::Int64(values) => values.len() * 8,
            Values::Float(values) => values.len() * 4,
            Values::Double(values) => values.len() * 8,
            Values::Bytes { joined, ends } => joined.len() + ends.len() * size_of::<usize>(),
        };
        values + 2 * (self.definitions.len() + self.repetitions.len())
    }

    fn write(&self, writer: &mut SerializedColumnWriter<'_>) -> Result<(), ParquetError> {
        match &self.values {
            Values::Bool(values) => self.write_values::<BoolType>(writer, values),
            Values::Int32(values) => self.write_values::<Int32Type>(writer, values),
            Values::Int64(values) => self.write_values::<Int64Type>(writer, values),
            Values::Float(values) => self.write_values::<FloatType>(writer, values),
            Values::Double(values) => self.write_values::<DoubleType>(writer, values),
            Values::Bytes { joined, ends } => self.write_bytes(writer, joined, ends),
        }
    }

    /// Some rows at a time: the encoder wants each value as a buffer of its own, which takes four words beside its
    /// bytes, and a row group may hold millions of short ones.
    fn write_bytes(
        &self,
        writer: &mut SerializedColumnWriter<'_>,
        joined: &[u8],
        ends: &[usize],
    ) -> Result<(), ParquetError> {
        let Leaf { definition_max, repetition_max, .. } = self.leaf;
        let count = if definition_max > 0 { self.definitions.len() } else { ends.len() };
        let (mut at, mut value, mut start) = (0, 0, 0);
        while at < count {
            let mut end = count.min(at + BYTES_AT_ONCE);
            // A batch begins with a row.
            while repetition_max > 0 && end < count && self.repetitions[end] > 0 {
                end += 1;
            }
            let value_end = match definition_max {
                0 => end,
                there => value + self.definitions[at..end].iter().filter(|level| **level == there).count(),
            };
            let some = &ends[value..value_end];
            let stop = some.last().copied().unwrap_or(start);
            // One allocation for all values; each then is a slice of it.
            let copy = bytes::Bytes::copy_from_slice(&joined[start..stop]);
            let starts = std::iter::once(start).chain(some.iter().copied());
            let values: Vec<ByteArray> =
                starts.zip(some).map(|(from, to)| ByteArray::from(copy.slice(from - start..to - start))).collect();
            let definitions = (definition_max > 0).then(|| &self.definitions[at..end]);
            let repetitions = (repetition_max > 0).then(|| &self.repetitions[at..end]);
            writer.typed::<ByteArrayType>().write_batch(&values, definitions, repetitions)?;
            (at, value, start) = (end, value_end, stop);
        }
        Ok(())
    }

    fn write_values<T: DataType>(
        &self,
        writer: &mut SerializedColumnWriter<'_>,
        values: &[T::T],
    ) -> Result<(), ParquetError> {
        let definitions = (self.leaf.definition_max > 0).then_some(self.definitions.as_slice());
        let repetitions = (self.leaf.repetition_max > 0).then_some(self.repetitions.as_slice());
        writer.typed::<T>().write_batch(values, definitions, repetitions)?;
        Ok(())
    }
}
