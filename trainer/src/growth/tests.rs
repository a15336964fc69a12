use super::*;

/// Rows of numbers between −1 and 1 that look random and are always the same.
fn base(rows: usize, count: usize) -> Vec<f64> {
    (0..rows * count)
        .map(|place| {
            let mixed = (place as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            (mixed >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
        })
        .collect()
}

fn limits(products: usize, degree: usize) -> Limits {
    Limits { products, degree }
}

#[test]
fn the_products_that_made_the_target_are_found() {
    let columns = base(400, 12);
    let base = Base {
        columns: &columns,
        rows: 400,
    };
    let rows: Vec<usize> = (0..400).collect();
    let truth: [(&[usize], f64); 4] = [
        (&[3], 2.0),
        (&[1, 7], 3.0),
        (&[1, 7, 9], 2.5),
        (&[5, 5], 1.0),
    ];
    let mut target = vec![0.5; 400];
    for (product, coefficient) in truth {
        let values = base.product(product, &rows);
        target
            .iter_mut()
            .zip(values)
            .for_each(|(target, value)| *target += coefficient * value);
    }
    let grown = grow(base, &rows, &target, &[], limits(8, 3));
    for (product, _) in truth {
        assert!(
            grown.contains(&product.to_vec()),
            "{product:?} is not in {grown:?}"
        );
    }
    assert!(
        grown.len() <= 6,
        "what explains nothing more is not taken: {grown:?}"
    );
}

#[test]
fn limits_hold_and_nothing_is_taken_twice() {
    let columns = base(200, 6);
    let base = Base {
        columns: &columns,
        rows: 200,
    };
    let rows: Vec<usize> = (0..200).step_by(2).collect();
    let target: Vec<f64> = rows.iter().map(|&row| (7.0 * columns[row]).sin()).collect();
    for degree in 1..=3 {
        let grown = grow(base, &rows, &target, &[], limits(20, degree));
        assert!(
            grown.len() <= 20
                && grown
                    .iter()
                    .all(|product| (1..=degree).contains(&product.len()))
        );
        assert_eq!(grown.iter().collect::<BTreeSet<_>>().len(), grown.len());
    }
}

#[test]
fn seeds_come_first_unless_they_depend_on_each_other() {
    let mut columns = base(100, 4);
    let twice: Vec<f64> = columns[..100]
        .iter()
        .map(|value| 2.0 * value + 1.0)
        .collect();
    columns.extend(twice);
    let base = Base {
        columns: &columns,
        rows: 100,
    };
    let rows: Vec<usize> = (0..100).collect();
    let target: Vec<f64> = rows.iter().map(|&row| columns[300 + row]).collect();
    let grown = grow(base, &rows, &target, &[0, 2, 4], limits(3, 2));
    assert_eq!(
        grown,
        [vec![0], vec![2], vec![3]],
        "4 depends on 0, and 3 is all there is to explain"
    );
}

#[test]
fn constant_columns_and_targets_grow_nothing() {
    let rows: Vec<usize> = (0..30).collect();
    let constant = vec![4.0; 60];
    let base_of = |columns| Base { columns, rows: 30 };
    let target: Vec<f64> = rows.iter().map(|&row| row as f64).collect();
    assert!(grow(base_of(&constant), &rows, &target, &[], limits(5, 2)).is_empty());
    let varying = base(30, 2);
    assert!(grow(base_of(&varying), &rows, &[3.0; 30], &[], limits(5, 2)).is_empty());
    assert!(grow(base_of(&[]), &rows, &target, &[], limits(5, 2)).is_empty());
}
