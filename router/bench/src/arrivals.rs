//! When the requests of an open loop come: decided beforehand, so that a slow server or generator cannot thin them out.

use std::time::Duration;

use crate::random::Random;
use crate::settings::{Arrivals, Stop};

/// The stream of random numbers that arrivals use; prompts use those above.
const STREAM: u64 = 0;

/// Times since the start of a run, in order.
pub(crate) fn times(rate: f64, arrivals: Arrivals, stop: Stop, seed: u64) -> impl Iterator<Item = Duration> {
    let mut random = Random::new(seed, STREAM);
    let (max_requests, end) = match stop {
        Stop::Requests(number) => (number, None),
        Stop::Duration(end) => (u64::MAX, Some(end)),
    };
    let mut at = 0.0;
    (0..max_requests)
        .map(move |_| {
            let time = Duration::from_secs_f64(at);
            at += match arrivals {
                Arrivals::Poisson => random.exponential() / rate,
                Arrivals::Constant => 1.0 / rate,
            };
            time
        })
        .take_while(move |time| end.is_none_or(|end| *time < end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constant_arrivals_are_an_interval_apart() {
        let found: Vec<_> = times(4.0, Arrivals::Constant, Stop::Duration(Duration::from_secs(1)), 0).collect();
        assert_eq!(found, [0, 250, 500, 750].map(Duration::from_millis));
    }

    #[test]
    fn poisson_arrivals_keep_the_rate_and_repeat_with_the_seed() {
        let found = |seed| times(50.0, Arrivals::Poisson, Stop::Requests(10_001), seed).collect::<Vec<_>>();
        let last = found(3)[10_000].as_secs_f64();
        // 10,000 waits of 20 ms: five standard deviations are 5%.
        assert!((last - 200.0).abs() < 10.0, "{last}");
        assert_eq!(found(3), found(3));
        assert_ne!(found(3), found(4));
    }
}
