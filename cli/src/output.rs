//! Results on standard output, as tables, JSON or CSV.

use std::io::{self, BufWriter, Write};
use std::sync::Arc;

use anyhow::{Context, Result};
use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::json::ArrayWriter;
use arrow::util::display::FormatOptions;
use arrow::util::pretty::pretty_format_batches_with_options;
use futures::{Stream, StreamExt};
use serde::Serialize;

use crate::args::Output;
use crate::units;

/// A column of a list: its name, and the text of a record there.
pub(crate) type Shown<'a, T> = (&'a str, fn(&T) -> String);

/// Rows of one table on the screen. Longer results come as several tables, so that memory stays bounded.
const ROWS_PER_TABLE: usize = 1_000;

/// Writes results.
pub(crate) struct Results<W: Write> {
    output: Output,
    out: W,
}

impl Results<BufWriter<io::Stdout>> {
    /// Results on standard output.
    pub(crate) fn stdout(output: Output) -> Self {
        Self {
            output,
            out: BufWriter::new(io::stdout()),
        }
    }
}

impl<W: Write> Results<W> {
    /// What was asked for.
    pub(crate) fn output(&self) -> Output {
        self.output
    }

    /// Writes one line, as it is in every format.
    ///
    /// # Errors
    /// What writing ends with.
    pub(crate) fn line(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.out, "{text}")?;
        self.out.flush()
    }

    /// Writes rows as they come, and returns how many there were.
    ///
    /// # Errors
    /// What the stream ends with, as it is; or what writing ends with.
    pub(crate) async fn rows<E>(
        &mut self,
        schema: SchemaRef,
        mut stream: impl Stream<Item = Result<RecordBatch, E>> + Unpin,
    ) -> Result<u64>
    where
        anyhow::Error: From<E>,
    {
        let rows = match self.output {
            Output::Table => self.table(&schema, &mut stream).await?,
            Output::Json => {
                let mut writer = ArrayWriter::new(&mut self.out);
                let mut rows = 0;
                while let Some(batch) = stream.next().await {
                    let batch = batch?;
                    rows += batch.num_rows() as u64;
                    writer.write(&batch).map_err(unwrap_io)?;
                }
                writer.finish().map_err(unwrap_io)?;
                writeln!(self.out)?;
                rows
            }
            Output::Csv => {
                let mut rows = 0;
                let mut writer = arrow::csv::WriterBuilder::new().with_header(true).build(&mut self.out);
                // The header is there also when no row is.
                writer
                    .write(&flat(&RecordBatch::new_empty(schema.clone()))?)
                    .map_err(unwrap_io)?;
                while let Some(batch) = stream.next().await {
                    let batch = batch?;
                    rows += batch.num_rows() as u64;
                    writer.write(&flat(&batch)?).map_err(unwrap_io)?;
                }
                rows
            }
        };
        self.out.flush()?;
        Ok(rows)
    }

    async fn table<E>(
        &mut self,
        schema: &SchemaRef,
        stream: &mut (impl Stream<Item = Result<RecordBatch, E>> + Unpin),
    ) -> Result<u64>
    where
        anyhow::Error: From<E>,
    {
        let (mut total, mut held, mut page) = (0, 0, Vec::new());
        while let Some(batch) = stream.next().await {
            let mut batch = batch?;
            while batch.num_rows() > 0 {
                let taken = batch.num_rows().min(ROWS_PER_TABLE - held);
                page.push(batch.slice(0, taken));
                batch = batch.slice(taken, batch.num_rows() - taken);
                held += taken;
                total += taken as u64;
                if held == ROWS_PER_TABLE {
                    self.page(schema, &page)?;
                    (held, page) = (0, Vec::new());
                }
            }
        }
        if held > 0 || total == 0 {
            self.page(schema, &page)?;
        }
        writeln!(self.out, "{}", units::counted(total, "row"))?;
        Ok(total)
    }

    fn page(&mut self, schema: &SchemaRef, batches: &[RecordBatch]) -> Result<()> {
        let empty = [RecordBatch::new_empty(schema.clone())];
        let options = FormatOptions::default().with_display_error(true).with_null("NULL");
        let table = pretty_format_batches_with_options(if batches.is_empty() { &empty } else { batches }, &options)?;
        writeln!(self.out, "{table}")?;
        Ok(())
    }

    /// Writes a list of records: a table or CSV of the columns that `columns` names, or a JSON array of all they hold.
    ///
    /// # Errors
    /// When writing fails.
    pub(crate) fn records<T: Serialize>(&mut self, records: &[T], columns: &[Shown<'_, T>]) -> Result<()> {
        match self.output {
            Output::Json => {
                serde_json::to_writer(&mut self.out, records).map_err(io::Error::from)?;
                writeln!(self.out)?;
            }
            Output::Table | Output::Csv => {
                let fields: Vec<Field> = columns
                    .iter()
                    .map(|(name, _)| Field::new(*name, DataType::Utf8, false))
                    .collect();
                let arrays = columns
                    .iter()
                    .map(|(_, value)| Arc::new(StringArray::from_iter_values(records.iter().map(value))) as ArrayRef)
                    .collect();
                let schema = Arc::new(Schema::new(fields));
                let batch = RecordBatch::try_new(schema.clone(), arrays)?;
                if self.output == Output::Csv {
                    arrow::csv::Writer::new(&mut self.out)
                        .write(&batch)
                        .map_err(unwrap_io)?;
                } else {
                    self.page(&schema, &[batch])?;
                }
            }
        }
        Ok(self.out.flush()?)
    }

    /// Writes one record: as JSON all of it, as CSV one row of it with nested values as JSON, else the lines that
    /// `text` makes of it.
    ///
    /// # Errors
    /// When writing fails.
    pub(crate) fn record<T: Serialize>(&mut self, record: &T, text: impl FnOnce() -> String) -> Result<()> {
        match self.output {
            Output::Json => {
                serde_json::to_writer(&mut self.out, record).map_err(io::Error::from)?;
                writeln!(self.out)?;
            }
            Output::Csv => {
                let batch = one_row(&serde_json::to_value(record)?)?;
                arrow::csv::Writer::new(&mut self.out)
                    .write(&batch)
                    .map_err(unwrap_io)?;
            }
            Output::Table => writeln!(self.out, "{}", text().trim_end())?,
        }
        Ok(self.out.flush()?)
    }
}

/// The fields of a record as the columns of one row of text.
fn one_row(record: &serde_json::Value) -> Result<RecordBatch> {
    let fields = record.as_object().context("only a record of fields can be a row")?;
    let cells = fields.iter().map(|(name, value)| {
        let text = match value {
            serde_json::Value::Null => None,
            serde_json::Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        };
        (name, Arc::new(StringArray::from(vec![text])) as ArrayRef, true)
    });
    Ok(RecordBatch::try_from_iter_with_nullable(cells)?)
}

/// Arrow keeps an I/O error inside its own; taken out, a closed pipe is known as one.
fn unwrap_io(error: arrow::error::ArrowError) -> anyhow::Error {
    match error {
        arrow::error::ArrowError::IoError(_, error) => error.into(),
        // The CSV writer keeps the text only.
        arrow::error::ArrowError::CsvError(text) if text.contains("Broken pipe") => {
            io::Error::new(io::ErrorKind::BrokenPipe, text).into()
        }
        other => other.into(),
    }
}

/// CSV has no lists and structs: they are written as text, the way tables show them. Bytes are hexadecimal already.
fn flat(batch: &RecordBatch) -> Result<RecordBatch> {
    let options = FormatOptions::default();
    let mut fields = Vec::with_capacity(batch.num_columns());
    let mut columns = Vec::with_capacity(batch.num_columns());
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        if column.data_type().is_nested() {
            let shown = arrow::util::display::ArrayFormatter::try_new(column, &options)
                .with_context(|| format!("column `{}` cannot be written as CSV", field.name()))?;
            let text = (0..column.len()).map(|i| column.is_valid(i).then(|| shown.value(i).to_string()));
            columns.push(Arc::new(text.collect::<StringArray>()) as ArrayRef);
            fields.push(Field::new(field.name(), DataType::Utf8, true));
        } else {
            columns.push(column.clone());
            fields.push(field.as_ref().clone());
        }
    }
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(
        Arc::new(Schema::new(fields)),
        columns,
        &options,
    )?)
}

#[cfg(test)]
mod tests {
    use arrow::array::Int64Array;
    use arrow::array::ListArray;
    use arrow::array::types::Int32Type;
    use futures::stream;

    use super::*;

    async fn written(output: Output, batches: Vec<RecordBatch>) -> String {
        let schema = batches[0].schema();
        let mut results = Results {
            output,
            out: Vec::new(),
        };
        let rows = stream::iter(batches.into_iter().map(Ok::<_, anyhow::Error>));
        results.rows(schema, rows).await.unwrap();
        String::from_utf8(results.out).unwrap()
    }

    fn batch(ids: Vec<Option<i64>>) -> RecordBatch {
        let lists = ListArray::from_iter_primitive::<Int32Type, _, _>(ids.iter().map(|_| Some(vec![Some(1), Some(2)])));
        RecordBatch::try_from_iter_with_nullable([
            ("id", Arc::new(Int64Array::from(ids)) as ArrayRef, true),
            ("tokens", Arc::new(lists) as ArrayRef, true),
        ])
        .unwrap()
    }

    #[tokio::test]
    async fn each_format_shows_lists_and_nulls() {
        let rows = || vec![batch(vec![Some(1), None])];
        assert_eq!(
            written(Output::Csv, rows()).await,
            "id,tokens\n1,\"[1, 2]\"\n,\"[1, 2]\"\n"
        );
        assert_eq!(
            written(Output::Json, rows()).await,
            "[{\"id\":1,\"tokens\":[1,2]},{\"tokens\":[1,2]}]\n"
        );
        let table = written(Output::Table, rows()).await;
        assert!(
            table.contains("| NULL | [1, 2] |") && table.ends_with("2 rows\n"),
            "{table}"
        );
    }

    #[test]
    fn a_record_is_a_row_of_csv() {
        let mut results = Results {
            output: Output::Csv,
            out: Vec::new(),
        };
        let record = serde_json::json!({ "name": "a,b", "rows": 3, "files": ["x", "y"], "none": null });
        results.record(&record, || panic!("text was asked for")).unwrap();
        assert_eq!(
            String::from_utf8(results.out).unwrap(),
            "files,name,none,rows\n\"[\"\"x\"\",\"\"y\"\"]\",\"a,b\",,3\n"
        );
    }

    #[tokio::test]
    async fn no_rows_still_say_which_columns() {
        let rows = || vec![batch(vec![])];
        assert_eq!(written(Output::Csv, rows()).await, "id,tokens\n");
        assert_eq!(written(Output::Json, rows()).await, "[]\n");
        assert!(written(Output::Table, rows()).await.contains("| id | tokens |"));
    }

    #[tokio::test]
    async fn long_results_come_in_tables_of_bounded_size() {
        let rows = vec![batch((0..2_500).map(Some).collect())];
        let table = written(Output::Table, rows).await;
        assert_eq!(table.matches("| id ").count(), 3);
        assert!(table.ends_with("2,500 rows\n"));
    }
}
