//! The choices that no other beats.

/// Which points are on the Pareto front: no other point is at least as good in both figures and better in one. Lower is
/// better in each. Points that are alike are on it together; one that is no number is never.
pub fn front(points: &[(f64, f64)]) -> Vec<bool> {
    let mut order: Vec<usize> = (0..points.len())
        .filter(|&index| !points[index].0.is_nan() && !points[index].1.is_nan())
        .collect();
    let compare = |(x, y): (f64, f64), (of_x, of_y): (f64, f64)| {
        x.total_cmp(&of_x).then_with(|| y.total_cmp(&of_y))
    };
    order.sort_by(|&one, &other| compare(points[one], points[other]));
    let mut on_front = vec![false; points.len()];
    // From the left, a point is on the front if it is lower than all before it, or the same as the last that was.
    let mut last: Option<(f64, f64)> = None;
    for index in order {
        let point = points[index];
        if last.is_none_or(|last| point.1 < last.1 || point == last) {
            on_front[index] = true;
            last = Some(point);
        }
    }
    on_front
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::front;

    #[test]
    fn what_is_beaten_in_both_is_off() {
        let points = [(1.0, 9.0), (2.0, 5.0), (3.0, 5.0), (2.0, 5.0), (4.0, 1.0)];
        assert_eq!(front(&points), [true, true, false, true, true]);
        assert_eq!(front(&[(f64::NAN, 0.0), (1.0, 1.0)]), [false, true]);
        assert_eq!(front(&[]), Vec::<bool>::new());
    }

    proptest! {
        #[test]
        fn it_is_the_definition(points in prop::collection::vec((0u8..9, 0u8..9), 0..40)) {
            let points: Vec<(f64, f64)> =
                points.into_iter().map(|(x, y)| (f64::from(x), f64::from(y))).collect();
            let beaten = |&(x, y): &(f64, f64)| {
                points.iter().any(|&(a, b)| a <= x && b <= y && (a < x || b < y))
            };
            let defined: Vec<bool> = points.iter().map(|point| !beaten(point)).collect();
            prop_assert_eq!(front(&points), defined);
        }
    }
}
