//! Where a row of logits is cut: the k-th largest, and the window round a centre that holds a share of the mass.
//!
//! Tokens are put into buckets by their distance from the centre (the best logit for top-p, the mean one for
//! typical-p), only the bucket in which the cut falls is sorted, and no row is sorted whole. A row's answer depends
//! on that row alone.

use crate::elementary::exp;
use crate::sampling_noise::{CHUNK, check_count, for_each_row, maximum};
use crate::threads::{parallel_for, threads_for};
use crate::{InstructionSet, KernelError, Rows, RowsMut};

/// Buckets are 1/64 wide, which leaves some dozens of tokens in one; the last takes all from a distance of 32 on.
const NUM_BUCKETS: usize = 2048;
const BUCKETS_PER_UNIT: f32 = 64.0;
/// Adding this to a float32 in [0, 2^11) leaves the integer nearest to it in the lowest bits.
const TO_INTEGER: f32 = 8_388_608.0;
const LANES: usize = 32;

/// The `k`-th largest logit of each row, counting equals; -inf where `k` is 0 or less, or where fewer are above -inf.
pub fn kth_largest(logits: Rows<'_, f32>, ks: &[i64], out: &mut [f32], set: InstructionSet) -> Result<(), KernelError> {
    check_count("ks", logits.num_rows(), ks.len())?;
    check_count("out", logits.num_rows(), out.len())?;
    for_each_row(logits, out, |row, logits| {
        if ks[row] <= 0 {
            return f32::NEG_INFINITY;
        }
        let ranking = Ranking { floor: f32::MIN, centre: maximum(logits, set) };
        let wanted = ks[row] as f64;
        ranking.cut(logits, One, |_| wanted, set).unwrap_or(f32::NEG_INFINITY)
    });
    Ok(())
}

/// The logits `[low, high]` of each row that are to be kept: those nearest to `centres[row]` whose mass (sum of
/// `e^logit`) is at least `shares[row]` of the mass at or above `floors[row]`, as few as suffice; equals are kept.
///
/// A centre above the best logit is the best logit. Nothing below the floor is kept; a share of 1 keeps the rest.
pub fn mass_window(
    logits: Rows<'_, f32>,
    floors: &[f32],
    centres: &[f32],
    shares: &[f32],
    windows: &mut [[f32; 2]],
    set: InstructionSet,
) -> Result<(), KernelError> {
    for (name, got) in [("floors", floors.len()), ("centres", centres.len()), ("shares", shares.len())] {
        check_count(name, logits.num_rows(), got)?;
    }
    check_count("windows", logits.num_rows(), windows.len())?;
    for_each_row(logits, windows, |row, logits| {
        let (floor, share) = (floors[row], f64::from(shares[row]));
        if share >= 1.0 {
            return [floor, f32::INFINITY];
        }
        let best = maximum(logits, set);
        let ranking = Ranking { floor: floor.max(f32::MIN), centre: centres[row].min(best) };
        // A floor, as top-k sets one, leaves few: the rest is not looked at again.
        let kept = (floor > f32::MIN).then(|| filtered(logits, |logit| logit >= floor, set));
        let cut = ranking.cut(kept.as_deref().unwrap_or(logits), Mass { best }, |total| share * total, set);
        cut.map_or([floor, f32::INFINITY], |cut| ranking.window(cut))
    });
    Ok(())
}

/// Sets to -inf what lies below `lows[row]` or above `highs[row]`.
pub fn keep_window(
    logits: &RowsMut<'_, f32>,
    lows: &[f32],
    highs: &[f32],
    set: InstructionSet,
) -> Result<(), KernelError> {
    check_count("lows", logits.num_rows(), lows.len())?;
    check_count("highs", logits.num_rows(), highs.len())?;
    // One thread writes about 8 logits a nanosecond.
    let num_threads = threads_for(logits.num_rows() * logits.row_length() / 8);
    parallel_for(num_threads, logits.num_rows(), |row| {
        let (low, high) = (lows[row], highs[row]);
        if low == f32::NEG_INFINITY && high == f32::INFINITY {
            return;
        }
        #[allow(unsafe_code)]
        // SAFETY: each row is one task's.
        let logits = unsafe { logits.row_mut(row) };
        set.vectorize(
            #[inline(always)]
            || {
                for logit in logits {
                    *logit = if *logit < low || *logit > high { f32::NEG_INFINITY } else { *logit };
                }
            },
        );
    });
    Ok(())
}

/// The mean logit of each row under its own softmax, over the logits at or above `floors[row]`.
pub fn mean_logit(
    logits: Rows<'_, f32>,
    floors: &[f32],
    out: &mut [f32],
    set: InstructionSet,
) -> Result<(), KernelError> {
    check_count("floors", logits.num_rows(), floors.len())?;
    check_count("out", logits.num_rows(), out.len())?;
    for_each_row(logits, out, |row, logits| {
        let (best, floor) = (maximum(logits, set), floors[row].max(f32::MIN));
        let (mass, moment) = set.vectorize(
            #[inline(always)]
            || moments(logits, floor, best),
        );
        (f64::from(best) + moment / mass) as f32
    });
    Ok(())
}

/// Sums of `e^(logit - best)` and of that times `logit - best`.
#[inline(always)]
fn moments(logits: &[f32], floor: f32, best: f32) -> (f64, f64) {
    let (mut masses, mut moments) = ([0.0f64; LANES], [0.0f64; LANES]);
    for part in logits.chunks(LANES) {
        for ((mass, moment), logit) in masses.iter_mut().zip(&mut moments).zip(part) {
            let below = *logit - best;
            let weight = if *logit >= floor { exp(below) } else { 0.0 };
            *mass += f64::from(weight);
            // Not `weight * below` alone: a logit of -inf would make it NaN.
            *moment += f64::from(if *logit >= floor { weight * below } else { 0.0 });
        }
    }
    (masses.iter().sum(), moments.iter().sum())
}

/// What a token counts. A trait, for a closure would not be inlined, and so not be vectorized.
trait Weight: Copy {
    fn of(self, logit: f32) -> f32;
}

#[derive(Clone, Copy)]
struct One;

impl Weight for One {
    #[inline(always)]
    fn of(self, _: f32) -> f32 {
        1.0
    }
}

/// A token's share of the mass, up to a factor.
#[derive(Clone, Copy)]
struct Mass {
    best: f32,
}

impl Weight for Mass {
    #[inline(always)]
    fn of(self, logit: f32) -> f32 {
        exp(logit - self.best)
    }
}

/// Tokens at or above a floor, in order of their distance from a centre.
struct Ranking {
    /// Finite, so that -inf is below it.
    floor: f32,
    centre: f32,
}

impl Ranking {
    /// The logit at which the weight of those up to it reaches what is `wanted` of the total; None: it never does.
    fn cut(
        &self,
        logits: &[f32],
        weight: impl Weight,
        wanted: impl Fn(f64) -> f64,
        set: InstructionSet,
    ) -> Option<f32> {
        let buckets = self.histogram(logits, weight, set);
        let wanted = wanted(buckets.iter().sum());
        let mut reached = 0.0;
        let bucket = buckets.iter().position(|mass| {
            reached += mass;
            *mass > 0.0 && reached >= wanted
        })?;
        reached -= buckets[bucket];
        let mut members = self.members(logits, bucket, set);
        // Where two distances are equal after rounding, the greater logit is the nearer one to the best.
        members.sort_unstable_by(|a, b| self.distance(*a).total_cmp(&self.distance(*b)).then(b.total_cmp(a)));
        let cut = members.iter().find(|logit| {
            reached += f64::from(weight.of(**logit));
            reached >= wanted
        });
        // In another order the bucket's weight may add up to a little less.
        cut.or(members.last()).copied()
    }

    /// All logits as near as `cut`, as an interval.
    fn window(&self, cut: f32) -> [f32; 2] {
        let (centre, distance) = (f64::from(self.centre), self.distance(cut));
        let (low, high) = (centre - distance, centre + distance);
        let (mut window, [low_as_f32, high_as_f32]) = ([cut, cut], [low as f32, high as f32]);
        if cut <= self.centre {
            window[1] = if f64::from(high_as_f32) > high { high_as_f32.next_down() } else { high_as_f32 };
        } else {
            let low = if f64::from(low_as_f32) < low { low_as_f32.next_up() } else { low_as_f32 };
            window[0] = low.max(self.floor);
        }
        window
    }

    fn distance(&self, logit: f32) -> f64 {
        (f64::from(logit) - f64::from(self.centre)).abs()
    }

    /// Rounding keeps the order, so that a nearer logit is never in a later bucket.
    #[inline(always)]
    fn bucket(&self, logit: f32) -> u32 {
        let place = (logit - self.centre).abs() * BUCKETS_PER_UNIT;
        let last = (NUM_BUCKETS - 1) as f32;
        let place = if place < last { place } else { last };
        (place + TO_INTEGER).to_bits() & (NUM_BUCKETS as u32 - 1)
    }

    fn histogram(&self, logits: &[f32], weight: impl Weight, set: InstructionSet) -> Vec<f64> {
        let mut buckets = vec![0.0f64; NUM_BUCKETS];
        let (mut places, mut weights) = ([0u32; CHUNK], [0.0f32; CHUNK]);
        for chunk in logits.chunks(CHUNK) {
            set.vectorize(
                #[inline(always)]
                || {
                    for ((place, mass), logit) in places.iter_mut().zip(&mut weights).zip(chunk) {
                        *place = self.bucket(*logit);
                        *mass = if *logit >= self.floor { weight.of(*logit) } else { 0.0 };
                    }
                },
            );
            for (place, mass) in places.iter().zip(&weights).take(chunk.len()) {
                buckets[*place as usize] += f64::from(*mass);
            }
        }
        buckets
    }

    fn members(&self, logits: &[f32], bucket: usize, set: InstructionSet) -> Vec<f32> {
        let is_member = |logit: f32| (logit >= self.floor) & (self.bucket(logit) as usize == bucket);
        filtered(logits, is_member, set)
    }
}

/// The logits that are wanted, in order; made for few.
fn filtered(logits: &[f32], is_wanted: impl Fn(f32) -> bool, set: InstructionSet) -> Vec<f32> {
    let mut wanted = Vec::new();
    for chunk in logits.chunks(LANES * 2) {
        // Counted, not `any`: a loop without an early exit vectorizes.
        let count = set.vectorize(
            #[inline(always)]
            || chunk.iter().filter(|logit| is_wanted(**logit)).count(),
        );
        if count > 0 {
            wanted.extend(chunk.iter().filter(|logit| is_wanted(**logit)));
        }
    }
    wanted
}

#[cfg(test)]
mod tests;
