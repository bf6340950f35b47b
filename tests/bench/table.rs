//! The figures of a bench, printed at its end, with what is aimed at.

use anyhow::ensure;

/// The figures.
#[derive(Default)]
pub(crate) struct Table(Vec<Row>);

struct Row {
    what: String,
    value: String,
    /// What is aimed at, and whether it is reached.
    aim: Option<(String, bool)>,
}

impl Table {
    pub(crate) fn add(&mut self, what: impl Into<String>, value: impl Into<String>) {
        self.0.push(Row {
            what: what.into(),
            value: value.into(),
            aim: None,
        });
    }

    pub(crate) fn aimed(
        &mut self,
        what: impl Into<String>,
        value: String,
        aim: &str,
        reached: bool,
    ) {
        self.0.push(Row {
            what: what.into(),
            value,
            aim: Some((aim.to_owned(), reached)),
        });
    }

    pub(crate) fn print(&self) {
        let widest = |text: fn(&Row) -> &str| {
            let lengths = self.0.iter().map(|row| text(row).chars().count());
            lengths.max().unwrap_or(0)
        };
        let (what, value) = (widest(|row| &row.what), widest(|row| &row.value));
        println!();
        for row in &self.0 {
            let aim = row.aim.as_ref().map_or_else(String::new, |(aim, reached)| {
                format!("aim {aim}: {}", if *reached { "reached" } else { "MISSED" })
            });
            let line = format!("{:what$}  {:value$}  {aim}", row.what, row.value);
            println!("{}", line.trim_end());
        }
        println!();
    }
}

/// A count as a number to calculate with.
pub(crate) fn float(count: u64) -> anyhow::Result<f64> {
    ensure!(count < 1 << 52, "{count} is more than is counted here");
    #[expect(clippy::cast_precision_loss, reason = "it was looked at")]
    Ok(count as f64)
}
