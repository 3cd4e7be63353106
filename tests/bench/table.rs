//! Medians, and tables in plain text or Markdown.

use std::time::Duration;

/// Samples of one measurement, sorted.
pub struct Samples(Vec<Duration>);

impl Samples {
    pub fn new(mut samples: Vec<Duration>) -> Self {
        assert!(!samples.is_empty(), "nothing was measured");
        samples.sort_unstable();
        Self(samples)
    }

    pub fn median(&self) -> Duration {
        self.at(50)
    }

    /// The sample that `percent` of all samples don't exceed.
    pub fn at(&self, percent: usize) -> Duration {
        self.0[(self.0.len() - 1) * percent / 100]
    }
}

pub fn milliseconds(duration: Duration) -> String {
    format!("{:.2} ms", duration.as_secs_f64() * 1e3)
}

pub fn ratio(part: Duration, whole: Duration) -> String {
    format!("{:.2}", part.as_secs_f64() / whole.as_secs_f64())
}

/// A goal and whether the figure meets it.
pub fn verdict(name: &str, figure: f64, goal: f64) -> String {
    let word = if figure <= goal { "met" } else { "MISSED" };
    format!("goal: {name} at most {goal}: {figure:.2}, {word}")
}

pub struct Table {
    title: String,
    rows: Vec<Vec<String>>,
    markdown: bool,
}

impl Table {
    pub fn new(title: String, markdown: bool, head: &[&str]) -> Self {
        Self { title, rows: vec![head.iter().map(|&cell| cell.to_owned()).collect()], markdown }
    }

    pub fn row(&mut self, cells: Vec<String>) {
        assert_eq!(cells.len(), self.rows[0].len(), "a row has as many cells as the head");
        self.rows.push(cells);
    }

    /// Prints the table and the sentences below it.
    pub fn print(&self, notes: &[String]) {
        println!("{}{}\n", if self.markdown { "### " } else { "" }, self.title);
        let width = |column: usize| self.rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
        for (index, row) in self.rows.iter().enumerate() {
            // Names to the left, figures to the right.
            let cells = row.iter().enumerate().map(|(column, cell)| match column {
                0 => format!("{cell:<0$}", width(column)),
                _ => format!("{cell:>0$}", width(column)),
            });
            if self.markdown {
                println!("| {} |", cells.collect::<Vec<_>>().join(" | "));
                if index == 0 {
                    println!("|---{}|", "|--:".repeat(row.len() - 1));
                }
            } else {
                println!("  {}", cells.collect::<Vec<_>>().join("  "));
            }
        }
        println!();
        for note in notes {
            println!("{}{note}", if self.markdown { "- " } else { "  " });
        }
        if !notes.is_empty() {
            println!();
        }
    }
}
