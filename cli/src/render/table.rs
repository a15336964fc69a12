//! Tables without frames: columns that align, and that `awk` can read.

use comfy_table::{CellAlignment, Table, presets};

/// A column: its heading, and on which side it stands.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Column {
    /// Words.
    Left(&'static str),
    /// Numbers.
    Right(&'static str),
}

/// The rows under their headings.
pub(crate) fn table<const COLUMNS: usize>(
    columns: [Column; COLUMNS],
    rows: impl IntoIterator<Item = [String; COLUMNS]>,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(columns.map(|column| match column {
        Column::Left(heading) | Column::Right(heading) => heading,
    }));
    for row in rows {
        table.add_row(row);
    }
    for (place, column) in table.column_iter_mut().zip(columns) {
        place.set_padding((0, 2));
        if let Column::Right(_) = column {
            place.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_right() {
        let rows = [["conv2d", "1.0"], ["relu", "120.0"]].map(|row| row.map(str::to_owned));
        insta::assert_snapshot!(table([Column::Left("kind"), Column::Right("ms")], rows), @r"
        kind       ms
        conv2d    1.0
        relu    120.0
        ");
    }
}
