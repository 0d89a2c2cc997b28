//! Sizes, ages and times for people.

use std::time::Duration;

/// `0 B`, `12 kB`, `3.4 MB`: three digits at most, in units of a thousand.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = usize::from(unit > 0 && value < 9.95);
    format!("{value:.digits$} {}", UNITS[unit])
}

/// `350ms`, `12s`, `3m 5s`, `2h 10m`, `4d 3h`; `-` for none.
pub(super) fn age(age: Option<Duration>) -> String {
    let Some(age) = age else { return "-".to_owned() };
    let seconds = age.as_secs();
    match seconds {
        0 => format!("{}ms", age.as_millis()),
        1..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h {}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// Rows below their titles, columns as wide as they need to be. The first columns are text, the last `numbers` are numbers.
pub(super) fn table(titles: &[&str], numbers: usize, rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(String::as_str);
        cells.chain([titles[column]]).map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..titles.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let cells = cells.into_iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            if column + numbers >= titles.len() {
                format!("{cell:>width$}")
            } else {
                format!("{cell:<width$}")
            }
        });
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    let lines = rows.iter().map(|row| line(row.iter().map(String::as_str).collect()));
    std::iter::once(line(titles.to_vec())).chain(lines).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_few_digits() {
        let sizes = [0, 999, 1000, 9949, 9950, 1_234_567, 999_499_999, 999_500_000, u64::MAX].map(size);
        assert_eq!(
            sizes,
            ["0 B", "999 B", "1.0 kB", "9.9 kB", "10 kB", "1.2 MB", "999 MB", "1.0 GB", "18446744 TB"]
        );
    }

    #[test]
    fn ages_have_two_units() {
        let ages =
            [0, 350, 12_000, 185_000, 7_800_000, 356_400_000].map(|ms| age(Some(Duration::from_millis(ms))));
        assert_eq!(ages, ["0ms", "350ms", "12s", "3m 5s", "2h 10m", "4d 3h"]);
        assert_eq!(age(None), "-");
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["a", "1"], ["long", "23456"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(table(&["NAME", "N"], 1, &rows), "NAME      N\na         1\nlong  23456\n");
    }
}
