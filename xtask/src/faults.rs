//! `cargo xtask test --faults`: the rows of the fault matrix in their long form, and their table.
//!
//! In: the lines of a test runner, those of the tests among them. Out: for each row its verdict, and
//! what it reported of itself: how often the fault was done, and how long recovery took. A row reports
//! by a line `ROW | F1 | what | repetitions | median | longest`, which comes after the runner's line
//! about its test; a row that failed may have reported nothing.

use crate::{processes, progress};

/// What tests of the matrix are called, before the name of the row (`f01_…`).
pub(crate) const MODULE: &str = "matrix::";

/// One test of the matrix.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    /// `matrix::kills::f01_…`
    test: String,
    passed: bool,
    /// What it reported: what, repetitions, median, longest.
    reports: Vec<[String; 4]>,
}

/// The tests seen so far.
#[derive(Debug, Default, Clone)]
pub(crate) struct Table {
    rows: Vec<Row>,
    /// The test whose output comes at the moment.
    current: Option<usize>,
}

impl Table {
    /// Takes a line of nextest (`PASS [ 1.0s] (1/9) tests::product matrix::kills::f01_…`), of
    /// `cargo test` (`test matrix::… ... ok`, later `---- matrix::… stdout ----`) or of a row.
    pub(crate) fn add(&mut self, line: &str) {
        let line = line.trim();
        if let Some(report) = line.strip_prefix("ROW | ") {
            let mut fields = report
                .split('|')
                .skip(1)
                .map(|field| field.trim().to_owned());
            let mut next = || fields.next().unwrap_or_default();
            let report = [next(), next(), next(), next()];
            if let Some(row) = self.current.and_then(|current| self.rows.get_mut(current)) {
                row.reports.push(report);
            }
            return;
        }
        let Some(test) = line
            .split_whitespace()
            .find(|word| word.starts_with(MODULE))
        else {
            return;
        };
        let verdict = match line.split_whitespace().next() {
            Some("PASS" | "LEAK") => Some(true),
            Some("FAIL" | "TIMEOUT" | "SIGABRT" | "SIGSEGV" | "SIGKILL") => Some(false),
            Some("test") => match line.split_whitespace().last() {
                Some("ok") => Some(true),
                Some("FAILED") => Some(false),
                _ => None,
            },
            Some("----") => None,
            _ => return,
        };
        let known = self.rows.iter().position(|row| row.test == test);
        match (known, verdict) {
            // Failures are listed once more at the end.
            (Some(at), Some(passed)) => self.rows[at].passed &= passed,
            (None, Some(passed)) => self.rows.push(Row {
                test: test.to_owned(),
                passed,
                reports: Vec::new(),
            }),
            (_, None) => {}
        }
        self.current = self.rows.iter().position(|row| row.test == test);
    }

    /// How many tests passed, and how many failed.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let passed = self.rows.iter().filter(|row| row.passed).count();
        (passed, self.rows.len() - passed)
    }

    /// Prints it, a line for each report.
    pub(crate) fn show(&self) {
        for line in self.lines() {
            progress::line(&line);
        }
    }

    fn lines(&self) -> Vec<String> {
        let mut rows = self.rows.clone();
        rows.sort_by(|a, b| name(&a.test).cmp(name(&b.test)));
        let mut cells =
            vec![["row", "what", "times", "verdict", "recovery", "longest"].map(str::to_owned)];
        for row in rows {
            let (number, words) = name(&row.test)
                .split_once('_')
                .unwrap_or(("", name(&row.test)));
            let is_row = number.len() == 3 && number.starts_with('f');
            let number = if is_row {
                number.to_uppercase().replacen("F0", "F", 1)
            } else {
                String::new()
            };
            let words = if is_row { words } else { name(&row.test) }.replace('_', " ");
            let verdict = if row.passed { "holds" } else { "FAILS" };
            let reports = if row.reports.is_empty() {
                vec![[words, String::new(), String::new(), String::new()]]
            } else {
                row.reports
            };
            for [what, times, median, longest] in reports {
                cells.push([
                    number.clone(),
                    what,
                    times,
                    verdict.to_owned(),
                    median,
                    longest,
                ]);
            }
        }
        let width = |column: usize| {
            let widths = cells.iter().map(|line| line[column].chars().count());
            widths.max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..6).map(width).collect();
        cells
            .iter()
            .map(|line| {
                let padded = line
                    .iter()
                    .zip(&widths)
                    .map(|(cell, width)| format!("{cell:<width$}"));
                padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
            })
            .collect()
    }
}

/// Without its modules.
fn name(test: &str) -> &str {
    test.rsplit("::").next().unwrap_or(test)
}

/// Makes a test command run the rows in their long form, unless the environment says otherwise.
pub(crate) fn long(command: &mut std::process::Command) {
    if std::env::var_os("FAULTS").is_none() {
        command.env("FAULTS", "long");
    }
}

/// A table that hears every line that another sink shows.
pub(crate) fn hears(
    table: &std::sync::Arc<std::sync::Mutex<Table>>,
    show: processes::Sink,
) -> processes::Sink {
    let table = std::sync::Arc::clone(table);
    Box::new(move |line| {
        show(line);
        let mut table = table
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        table.add(line);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(lines: &[&str]) -> Vec<String> {
        let mut table = Table::default();
        for line in lines {
            table.add(line);
        }
        table.lines()
    }

    #[test]
    fn rows_of_nextest_get_what_they_report() {
        let lines = table(&[
            "        PASS [  54.700s] (1/2) tests::product matrix::kills::f01_dying_loses_nothing",
            "    ROW | F1 | killed at each fail point | 12 | 0.9 s | 4.7 s",
            "    seed 1",
            "        FAIL [  10.000s] (2/2) tests::product matrix::redis::f10_links_hang",
            "     Summary [  64.7s] 2 tests run: 1 passed, 1 failed, 0 skipped",
            "        FAIL [  10.000s] (2/2) tests::product matrix::redis::f10_links_hang",
            "        PASS [   0.100s] (1/2) tests::product whole::something_else",
        ]);
        assert_eq!(
            lines,
            [
                "row  what                       times  verdict  recovery  longest",
                "F1   killed at each fail point  12     holds    0.9 s     4.7 s",
                "F10  links hang                        FAILS",
            ]
        );
    }

    #[test]
    fn rows_of_cargo_test_report_after_the_verdicts() {
        let lines = table(&[
            "test matrix::doubts::the_proof_names_what_is_broken ... ok",
            "test matrix::kills::f02_killed ... ok",
            "---- matrix::kills::f02_killed stdout ----",
            "ROW | F2 | one process | 9 | – | 0.8 s",
        ]);
        assert!(
            lines[1].contains("F2") && lines[1].contains("one process"),
            "{lines:?}"
        );
        assert!(lines[2].contains("the proof names"), "{lines:?}");
    }
}
