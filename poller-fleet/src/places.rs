//! How many attempts may be under way at once, of all functions, and how many of them one function may take.
//!
//! A function takes places as long as it has fewer than eight times what is free then: alone it gets eight ninths, two get eight seventeenths
//! each, and twenty still leave some for whoever comes (dynamic thresholds, as in [`budget`](crate::budget)). What every function always has is
//! begun without a place being free, and waits for one.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

/// A function may take so many times what is free.
const TIMES_FREE: u32 = 8;

/// Cheap to clone; all clones are the same places.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    total: u32,
    taken: Arc<AtomicU32>,
}

/// One of them, for as long as it lives.
#[derive(Debug)]
pub(crate) struct Place(Arc<AtomicU32>);

impl Places {
    pub(crate) fn new(total: u32) -> Self {
        Self { total, taken: Arc::default() }
    }

    /// Whether a function that has so many leaves enough for others if it takes another.
    pub(crate) fn leaves_room(&self, own: u32) -> bool {
        let free = self.total.saturating_sub(self.taken.load(Ordering::Relaxed));
        own < free.saturating_mul(TIMES_FREE)
    }

    pub(crate) fn take(&self) -> Place {
        self.taken.fetch_add(1, Ordering::Relaxed);
        Place(self.taken.clone())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each of so many functions gets that take all they may, one after the other or in turns, and what is left.
    fn shared_by(functions: usize) -> (Vec<usize>, u32) {
        let places = Places::new(900);
        let mut taken: Vec<Vec<Place>> = (0..functions).map(|_| Vec::new()).collect();
        loop {
            let before: usize = taken.iter().map(Vec::len).sum();
            for own in &mut taken {
                if places.leaves_room(own.len() as u32) {
                    own.push(places.take());
                }
            }
            if taken.iter().map(Vec::len).sum::<usize>() == before {
                let left = 900 - places.taken.load(Ordering::Relaxed);
                return (taken.iter().map(Vec::len).collect(), left);
            }
        }
    }

    #[test]
    fn some_are_left_however_many_take_what_they_may() {
        assert_eq!(shared_by(1), (vec![800], 100));
        let (each, left) = shared_by(2);
        assert!(each.iter().all(|own| (420..=425).contains(own)) && left > 50, "{each:?} {left}");
        assert!(shared_by(20).1 >= 5);
    }

    #[test]
    fn a_place_that_is_given_back_is_free() {
        let places = Places::new(1);
        let place = places.take();
        assert!(!places.leaves_room(0));
        drop(place);
        assert!(places.leaves_room(0));
    }
}
