//! Sampling as an argmax: `argmax(logits + gumbel noise)` draws from `softmax(logits)`; and log-probabilities.
//!
//! The noise of a token is a pure function of (seed, position, token id): the first word of Philox4x32-10 with the
//! seed as key and (position, token) as counter. So a text can be resumed, batched or moved without changing.
//! Sources: Philox, Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011); Gumbel-max, arXiv 1411.0030.

mod philox;

use crate::elementary::exp;
use crate::threads::{SharedOutput, parallel_for, threads_for};
use crate::{InstructionSet, KernelError, Rows};
use philox::LANES;

/// No noise is above this: -ln(-ln(1 - 2^-33)) = 22.874.
const MAX_NOISE: f64 = 22.9;
/// No noise is below this: -ln(-ln(2^-33)) = -3.130.
const MIN_NOISE: f64 = -3.2;
/// Logits that one pass of the log-sum-exp holds in the first-level cache.
pub(crate) const CHUNK: usize = 2048;

/// Draws one token a row: the index of the largest `logit + noise(seed, position, index)`; of equals the lowest.
///
/// A logit of -inf never wins. A row without a finite maximum, or with a NaN, yields -1. `seeds` are any 64 bits,
/// `positions` the number of tokens before the one drawn.
pub fn gumbel_argmax(
    logits: Rows<'_, f32>,
    seeds: &[i64],
    positions: &[i64],
    ids: &mut [i64],
    set: InstructionSet,
) -> Result<(), KernelError> {
    for (name, got) in [("seeds", seeds.len()), ("positions", positions.len()), ("ids", ids.len())] {
        check_count(name, logits.num_rows(), got)?;
    }
    for_each_row(logits, ids, |row, logits| {
        set.vectorize(
            #[inline(always)]
            || draw(logits, seeds[row] as u64, positions[row] as u64),
        )
    });
    Ok(())
}

/// The index of each row's largest logit, of equals the lowest; -1 for a row without a finite maximum, or with a NaN.
pub fn argmax(logits: Rows<'_, f32>, ids: &mut [i64], set: InstructionSet) -> Result<(), KernelError> {
    check_count("ids", logits.num_rows(), ids.len())?;
    for_each_row(logits, ids, |_, logits| {
        let best = set.vectorize(
            #[inline(always)]
            || largest(logits),
        );
        best.map_or(-1, |(index, _)| index as i64)
    });
    Ok(())
}

/// The log-probability of one token a row: `logits[r, ids[r]] - logsumexp(logits[r])`.
pub fn token_logprobs(
    logits: Rows<'_, f32>,
    ids: &[i64],
    out: &mut [f32],
    set: InstructionSet,
) -> Result<(), KernelError> {
    check_count("ids", logits.num_rows(), ids.len())?;
    check_count("out", logits.num_rows(), out.len())?;
    let limit = logits.row_length();
    if let Some(at) = ids.iter().position(|id| usize::try_from(*id).map_or(true, |id| id >= limit)) {
        return Err(KernelError::Index { name: "ids", at, got: ids[at], limit });
    }
    for_each_row(logits, out, |row, logits| (f64::from(logits[ids[row] as usize]) - log_sum_exp(logits, set)) as f32);
    Ok(())
}

pub(crate) fn check_count(name: &'static str, expected: usize, got: usize) -> Result<(), KernelError> {
    if expected == got { Ok(()) } else { Err(KernelError::Count { name, expected, got }) }
}

/// Runs `value` for every row, the rows spread over threads.
pub(crate) fn for_each_row<T: Send>(logits: Rows<'_, f32>, out: &mut [T], value: impl Fn(usize, &[f32]) -> T + Sync) {
    let out = SharedOutput::new(out);
    // One thread looks at about 4 logits a nanosecond.
    let num_threads = threads_for(logits.num_rows() * logits.row_length() / 4);
    parallel_for(num_threads, logits.num_rows(), |row| {
        #[allow(unsafe_code)]
        // SAFETY: each task writes the entry of its row.
        let out = unsafe { out.part(row, 1) };
        out[0] = value(row, logits.row(row));
    });
}

/// The best token so far and what another must have to beat it.
struct Best {
    id: usize,
    value: f64,
    /// Logits below this cannot win with any noise.
    min_logit: f32,
    /// Upper bounds of logit plus noise below this cannot win.
    min_bound: f32,
}

impl Best {
    fn new(id: usize, value: f64) -> Self {
        // Room for the rounding of the float32 sums that are compared with it.
        let min_bound = value - 0.01 - value.abs() * 1e-6;
        Self { id, value, min_logit: (min_bound - MAX_NOISE) as f32, min_bound: min_bound as f32 }
    }
}

#[inline(always)]
#[allow(clippy::float_cmp)] // equal sums are a tie, and only those
fn draw(logits: &[f32], seed: u64, position: u64) -> i64 {
    let Some((top, largest)) = largest(logits) else { return -1 };
    let words = philox::words(seed, position, top as u32);
    // The largest logit first: its value bounds what the others need, and spares many of them the noise.
    let mut best = Best::new(top, f64::from(largest) + noise(words[0]));
    for (chunk, logits) in logits.chunks(LANES).enumerate() {
        // Counted, not `any`: a loop without an early exit vectorizes.
        if logits.iter().filter(|logit| **logit >= best.min_logit).count() == 0 {
            continue;
        }
        let words = philox::words(seed, position, (chunk * LANES) as u32);
        let bounds = logits.iter().zip(&words).map(|(logit, word)| logit + noise_bound(*word));
        if bounds.filter(|bound| *bound >= best.min_bound).count() == 0 {
            continue;
        }
        for (lane, (logit, word)) in logits.iter().zip(words).enumerate() {
            if logit + noise_bound(word) < best.min_bound || *logit == f32::NEG_INFINITY {
                continue;
            }
            let (id, value) = (chunk * LANES + lane, f64::from(*logit) + noise(word));
            if value > best.value || (value == best.value && id < best.id) {
                best = Best::new(id, value);
            }
        }
    }
    best.id as i64
}

/// At least the word's noise, and at most 0.75 more where the noise is above 4: with `v = 1 - u`, `-ln u >= v`, and `v` is
/// at least `2^-(z + 1)` when the word begins with `z` ones.
#[inline(always)]
fn noise_bound(word: u32) -> f32 {
    (word.leading_ones() + 1) as f32 * std::f32::consts::LN_2
}

/// -ln(-ln u) of the uniform in (0, 1) that the word stands for. In float64, where libm's logarithm is the same
/// function for every instruction set.
fn noise(word: u32) -> f64 {
    let uniform = (f64::from(word) + 0.5) / 4_294_967_296.0;
    let noise = -(-uniform.ln()).ln();
    debug_assert!((MIN_NOISE..=MAX_NOISE).contains(&noise));
    noise
}

/// Index and value of the largest logit, if it is finite and no logit is NaN.
#[inline(always)]
#[allow(clippy::float_cmp)] // looks for the very value that was found
fn largest(logits: &[f32]) -> Option<(usize, f32)> {
    let mut lanes = [f32::NEG_INFINITY; 4 * LANES];
    let mut has_nan = [false; 4 * LANES];
    for chunk in logits.chunks(lanes.len()) {
        for ((lane, nan), logit) in lanes.iter_mut().zip(&mut has_nan).zip(chunk) {
            *lane = if *logit > *lane { *logit } else { *lane };
            *nan |= logit.is_nan();
        }
    }
    let largest = lanes.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if has_nan.contains(&true) || !largest.is_finite() {
        return None;
    }
    // By chunks first: a search that may stop at every element does not vectorize.
    let has_largest = |chunk: &[f32]| chunk.iter().filter(|logit| **logit == largest).count() > 0;
    let chunk = logits.chunks(4 * LANES).position(has_largest)?;
    let start = chunk * 4 * LANES;
    logits[start..].iter().position(|logit| *logit == largest).map(|index| (start + index, largest))
}

/// One pass over memory: each chunk is read for its maximum, then again from the cache for its sum.
fn log_sum_exp(logits: &[f32], set: InstructionSet) -> f64 {
    let (mut maximum, mut sum) = (f32::NEG_INFINITY, 0.0f64);
    for chunk in logits.chunks(CHUNK) {
        set.vectorize(
            #[inline(always)]
            || {
                let largest = chunk_maximum(chunk);
                if largest > maximum {
                    sum *= f64::from(maximum - largest).exp();
                    maximum = largest;
                }
                // Only -inf so far: nothing to add, and -inf - -inf would be NaN.
                if maximum > f32::NEG_INFINITY || largest.is_nan() {
                    sum += f64::from(chunk_sum(chunk, maximum));
                }
            },
        );
    }
    f64::from(maximum) + sum.ln()
}

/// The largest logit of a row; NaN if it has one.
pub(crate) fn maximum(logits: &[f32], set: InstructionSet) -> f32 {
    set.vectorize(
        #[inline(always)]
        || chunk_maximum(logits),
    )
}

/// NaN if the chunk has one.
#[inline(always)]
fn chunk_maximum(chunk: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 4 * LANES];
    for part in chunk.chunks(lanes.len()) {
        for (lane, logit) in lanes.iter_mut().zip(part) {
            *lane = if *logit <= *lane { *lane } else { *logit };
        }
    }
    lanes.iter().copied().fold(f32::NEG_INFINITY, |a, b| if b <= a { a } else { b })
}

#[inline(always)]
fn chunk_sum(chunk: &[f32], maximum: f32) -> f32 {
    let mut lanes = [0.0; 4 * LANES];
    for part in chunk.chunks(lanes.len()) {
        for (lane, logit) in lanes.iter_mut().zip(part) {
            *lane += exp(logit - maximum);
        }
    }
    lanes.iter().sum()
}

#[cfg(test)]
mod tests;
