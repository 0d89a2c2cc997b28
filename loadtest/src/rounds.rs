//! Interleaved rounds and their summary.

/// Runs `warm_up` rounds of both sides whose results are dropped, then `rounds` whose results are kept: A B, A B, ….
/// Alternation makes a machine that drifts (a busy neighbour, a warm disk) drift for both.
pub fn interleave<A, B, E>(
    warm_up: usize,
    rounds: usize,
    mut a: impl FnMut() -> Result<A, E>,
    mut b: impl FnMut() -> Result<B, E>,
) -> Result<Vec<(A, B)>, E> {
    let mut kept = Vec::with_capacity(rounds);
    for round in 0..warm_up + rounds {
        let pair = (a()?, b()?);
        if round >= warm_up {
            kept.push(pair);
        }
    }
    Ok(kept)
}

/// The middle value; the mean of the two middle ones if their number is even. NaN of nothing.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// Least and greatest value.
#[must_use]
pub fn spread(values: &[f64]) -> [f64; 2] {
    values
        .iter()
        .fold([f64::INFINITY, f64::NEG_INFINITY], |[low, high], &value| [low.min(value), high.max(value)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_alternate_and_the_warm_up_is_dropped() {
        let order = std::cell::RefCell::new(Vec::new());
        let step = |side: char| {
            order.borrow_mut().push(side);
            Ok::<_, ()>(order.borrow().len())
        };
        let kept = interleave(1, 2, || step('a'), || step('b')).unwrap();
        assert_eq!(kept, [(3, 4), (5, 6)]);
        assert_eq!(order.into_inner(), ['a', 'b', 'a', 'b', 'a', 'b']);
    }

    #[test]
    fn the_first_error_ends_it() {
        let mut runs = 0;
        let result: Result<Vec<((), ())>, &str> = interleave(
            0,
            5,
            || Ok(()),
            || {
                runs += 1;
                if runs == 2 { Err("gone") } else { Ok(()) }
            },
        );
        assert_eq!((result, runs), (Err("gone"), 2));
    }

    #[test]
    fn median_and_spread() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
        assert_eq!(spread(&[3.0, 1.0, 2.0]), [1.0, 3.0]);
    }
}
