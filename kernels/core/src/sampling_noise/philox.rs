//! Philox4x32-10: ten rounds of multiply and exchange on a counter of four words, with a key of two.

/// Tokens whose words are made together.
pub(super) const LANES: usize = 32;

/// A word in the low half, anything in the high half: one vector multiplication then needs no unpacking.
type Lane = u64;

const MULTIPLIERS: [u32; 2] = [0xd251_1f53, 0xcd9e_8d57];
const KEY_STEPS: [u32; 2] = [0x9e37_79b9, 0xbb67_ae85];
const ROUNDS: u32 = 10;

/// The first output word for the counters `(position low, position high, first_token + lane, 0)`.
#[inline(always)]
pub(super) fn words(seed: u64, position: u64, first_token: u32) -> [u32; LANES] {
    let mut counter = [[position; LANES], [position >> 32; LANES], [0; LANES], [0; LANES]];
    for (lane, token) in counter[2].iter_mut().enumerate() {
        *token = Lane::from(first_token) + lane as Lane;
    }
    for round in 0..ROUNDS {
        let key = [0, 1].map(|word| ((seed >> (32 * word)) as u32).wrapping_add(KEY_STEPS[word].wrapping_mul(round)));
        counter = next(&counter, key);
    }
    counter[0].map(|word| word as u32)
}

#[inline(always)]
fn next(counter: &[[Lane; LANES]; 4], key: [u32; 2]) -> [[Lane; LANES]; 4] {
    let mut out = [[0; LANES]; 4];
    for lane in 0..LANES {
        let first = Lane::from(MULTIPLIERS[0]) * (counter[0][lane] & Lane::from(u32::MAX));
        let second = Lane::from(MULTIPLIERS[1]) * (counter[2][lane] & Lane::from(u32::MAX));
        out[0][lane] = (second >> 32) ^ counter[1][lane] ^ Lane::from(key[0]);
        out[1][lane] = second;
        out[2][lane] = (first >> 32) ^ counter[3][lane] ^ Lane::from(key[1]);
        out[3][lane] = first;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers of Random123's `kat_vectors`, philox4x32 10, first words.
    #[test]
    fn words_are_those_of_the_authors_test_vectors() {
        assert_eq!(words(0, 0, 0)[0], 0x6627_e8d5);
        let ones = next_ten([u32::MAX; 4], [u32::MAX; 2]);
        assert_eq!(ones, [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let pi = next_ten([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]);
        assert_eq!(pi, [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
    }

    fn next_ten(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
        let mut lanes = counter.map(|word| [Lane::from(word); LANES]);
        for round in 0..ROUNDS {
            let key = [0, 1].map(|word: usize| key[word].wrapping_add(KEY_STEPS[word].wrapping_mul(round)));
            lanes = next(&lanes, key);
        }
        lanes.map(|word| word[3] as u32)
    }
}
