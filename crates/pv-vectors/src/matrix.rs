//! A small table of numbers with names.

use std::fmt;

/// A table of numbers whose rows and columns have names, such as the cosines between traits.
///
/// ```
/// use pv_vectors::cosines;
/// let matrix = cosines(&[("a", &[1.0, 0.0]), ("b", &[1.0, 1.0])])?;
/// assert!((matrix.get(0, 1).unwrap() - 0.5f64.sqrt()).abs() < 1e-12);
/// assert_eq!(matrix.to_string(), "       a      b\na  1.000  0.707\nb  0.707  1.000\n");
/// # Ok::<(), pv_vectors::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    rows: Vec<String>,
    columns: Vec<String>,
    /// Row after row; NaN where there is no value.
    values: Vec<f64>,
}

impl Matrix {
    pub(crate) fn new(rows: Vec<String>, columns: Vec<String>, value: impl Fn(usize, usize) -> Option<f64>) -> Self {
        let values = (0..rows.len())
            .flat_map(|row| (0..columns.len()).map(move |column| (row, column)))
            .map(|(row, column)| value(row, column).unwrap_or(f64::NAN))
            .collect();
        Self { rows, columns, values }
    }

    /// The rows' names.
    pub fn rows(&self) -> &[String] {
        &self.rows
    }

    /// The columns' names.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// A value; `None` outside the table, and where there is none (the cosine with a row of zeros, for example).
    pub fn get(&self, row: usize, column: usize) -> Option<f64> {
        let inside = row < self.rows.len() && column < self.columns.len();
        inside.then(|| self.values[row * self.columns.len() + column]).filter(|value| !value.is_nan())
    }
}

impl fmt::Display for Matrix {
    /// The table with aligned columns, three decimals (fewer for large numbers) and a dash where there is no value. A
    /// precision (`{:.5}`) sets another number of decimals.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decimals = f.precision().unwrap_or(3);
        let cell = |row: usize, column: usize| match self.get(row, column) {
            Some(value) if value.abs() >= 1e6 => format!("{value:.decimals$e}"),
            Some(value) => format!("{value:.decimals$}"),
            None => "-".to_owned(),
        };
        let width = |text: &str| text.chars().count();
        let first = self.rows.iter().map(|name| width(name)).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|column| {
                let cells = (0..self.rows.len()).map(|row| width(&cell(row, column)));
                cells.chain([width(&self.columns[column])]).max().unwrap_or(0)
            })
            .collect();
        let line = |f: &mut fmt::Formatter<'_>, name: &str, cells: &dyn Fn(usize) -> String| {
            write!(f, "{name:<first$}")?;
            for (column, width) in widths.iter().enumerate() {
                write!(f, "{:>1$}", cells(column), width + 2)?;
            }
            writeln!(f)
        };
        line(f, "", &|column| self.columns[column].clone())?;
        (0..self.rows.len()).try_for_each(|row| line(f, &self.rows[row], &|column| cell(row, column)))
    }
}
