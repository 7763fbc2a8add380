use super::*;

/// A small linear congruential generator: tests must not depend on a crate's idea of randomness.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as u32
    }

    fn float(&mut self) -> f32 {
        self.next() as f32 / (1u32 << 30) as f32 - 1.0
    }
}

fn random_blocks(block_type: BlockType, num_rows: usize, num_columns: usize, noise: &mut Noise) -> Vec<u8> {
    let mut blocks = Vec::new();
    for _ in 0..num_rows * num_columns / block_type.num_columns() {
        let first = blocks.len();
        blocks.extend((0..block_type.file_bytes()).map(|_| noise.next() as u8));
        for at in block_type.format().halves {
            let half = half::f16::from_f32(noise.float() * 0.01);
            blocks[first + at..first + at + 2].copy_from_slice(&half.to_le_bytes());
        }
    }
    blocks
}

/// Five rows of every type that fits, and a group more of the first.
fn random_weight(num_columns: usize, noise: &mut Noise) -> PackedWeight {
    let fitting = BlockType::ALL.into_iter().filter(|one| num_columns.is_multiple_of(one.num_columns()));
    let parts: Vec<_> = fitting
        .enumerate()
        .map(|(index, block_type)| {
            let rows = if index == 0 { 21 } else { 5 };
            (block_type, random_blocks(block_type, rows, num_columns, noise))
        })
        .collect();
    let segments: Vec<_> =
        parts.iter().map(|(block_type, blocks)| Segment { blocks, block_type: *block_type }).collect();
    PackedWeight::new(&segments, num_columns).unwrap()
}

fn multiply(x: &[f32], weight: &PackedWeight, set: InstructionSet) -> Vec<f32> {
    let mut out = vec![f32::NAN; x.len() / weight.num_columns() * weight.num_rows()];
    quantized_linear(Rows::contiguous(x, weight.num_columns()), weight, &mut out, set).unwrap();
    out
}

#[test]
fn every_set_agrees_with_the_dequantized_product_to_the_activations_rounding() {
    let mut noise = Noise(1);
    let weight = random_weight(512, &mut noise);
    let mut dense = vec![0.0; weight.num_rows() * 512];
    dequantize(&weight, &mut dense).unwrap();
    let x: Vec<f32> = (0..13 * 512).map(|_| noise.float()).collect();
    for set in InstructionSet::available() {
        let out = multiply(&x, &weight, set);
        for (t, x) in x.chunks_exact(512).enumerate() {
            for (n, row) in dense.chunks_exact(512).enumerate() {
                let exact: f32 = x.iter().zip(row).map(|(x, w)| x * w).sum();
                let magnitude: f32 = x.iter().zip(row).map(|(x, w)| (x * w).abs()).sum();
                // Each activation is off by at most half a step of 1/32512 of its block's largest.
                let got = out[t * weight.num_rows() + n];
                assert!((got - exact).abs() <= 1e-4 * magnitude + 2e-4, "{}: {got} {exact}", set.name());
            }
        }
    }
}

#[test]
fn all_sets_agree_to_float_rounding() {
    let mut noise = Noise(2);
    let weight = random_weight(768, &mut noise);
    let x: Vec<f32> = (0..7 * 768).map(|_| noise.float()).collect();
    let portable = multiply(&x, &weight, InstructionSet::PORTABLE);
    for set in InstructionSet::available() {
        for (a, b) in multiply(&x, &weight, set).iter().zip(&portable) {
            assert!((a - b).abs() <= 1e-4 * (1.0 + b.abs()), "{} {a} {b}", set.name());
        }
    }
}

#[test]
fn a_row_is_bit_equal_alone_and_in_any_batch() {
    let mut noise = Noise(3);
    let weight = random_weight(1536, &mut noise);
    let x: Vec<f32> = (0..33 * 1536).map(|_| noise.float()).collect();
    for set in InstructionSet::available() {
        let batch = multiply(&x, &weight, set);
        for (x, expected) in x.chunks_exact(1536).zip(batch.chunks_exact(weight.num_rows())) {
            assert_eq!(multiply(x, &weight, set), expected);
        }
    }
}

#[test]
fn embedding_gathers_rows_of_the_dequantized_weight() {
    let weight = random_weight(64, &mut Noise(4));
    let mut dense = vec![0.0; weight.num_rows() * 64];
    dequantize(&weight, &mut dense).unwrap();
    let ids = [45, 0, 20, 21, 25, 26];
    let mut out = vec![0.0; ids.len() * 64];
    quantized_embedding(&ids, &weight, &mut out).unwrap();
    for (id, row) in ids.iter().zip(out.chunks_exact(64)) {
        assert_eq!(row, &dense[*id as usize * 64..][..64]);
    }
    let error = quantized_embedding(&[3, 46], &weight, &mut out[..128]).unwrap_err();
    assert_eq!(error, KernelError::Index { name: "ids", at: 1, got: 46, limit: 46 });
}

#[test]
fn wrong_shapes_are_refused() {
    let short = Segment { blocks: &[0; 27], block_type: BlockType::Q4_0 };
    let expected = KernelError::Columns { got: 48, block: 32, block_type: "Q4_0" };
    assert_eq!(PackedWeight::new(&[short], 48).unwrap_err(), expected);
    let ragged = Segment { blocks: &[0; 50], block_type: BlockType::Q4_0 };
    assert!(PackedWeight::new(&[ragged], 64).is_err());
    let weight = random_weight(64, &mut Noise(5));
    let error = quantized_linear(Rows::contiguous(&[0.0f32; 32], 32), &weight, &mut [], InstructionSet::best());
    assert_eq!(error, Err(KernelError::RowLength { name: "x", expected: 64, got: 32 }));
}

#[test]
fn rows_in_groups_are_bit_equal_to_those_of_one_product_each() {
    let mut noise = Noise(6);
    let weights: Vec<_> = (0..4).map(|_| random_weight(256, &mut noise)).collect();
    let weights: Vec<_> = weights.iter().collect();
    let x: Vec<f32> = (0..30 * 256).map(|_| noise.float()).collect();
    for set in InstructionSet::available() {
        let mut out = vec![f32::NAN; 30 * weights[0].num_rows()];
        grouped_linear(Rows::contiguous(&x, 256), &weights, &[9, 9, 10, 30], &mut out, set).unwrap();
        let mut expected = multiply(&x[..9 * 256], weights[0], set);
        expected.extend(multiply(&x[9 * 256..10 * 256], weights[2], set));
        expected.extend(multiply(&x[10 * 256..], weights[3], set));
        assert_eq!(out, expected);
    }
}

#[test]
fn groups_that_do_not_fit_the_rows_are_refused() {
    let weight = random_weight(64, &mut Noise(7));
    let (x, mut out) = (vec![0.0f32; 3 * 64], vec![0.0; 3 * weight.num_rows()]);
    let mut group = |weights: &[&PackedWeight], ends: &[i64]| {
        grouped_linear(Rows::contiguous(&x, 64), weights, ends, &mut out, InstructionSet::PORTABLE)
    };
    let both = [&weight, &weight];
    assert_eq!(group(&both, &[2, 1]), Err(KernelError::Index { name: "ends", at: 1, got: 1, limit: 4 }));
    assert_eq!(group(&both, &[2, 4]), Err(KernelError::Index { name: "ends", at: 1, got: 4, limit: 4 }));
    assert_eq!(group(&both, &[0, 2]), Err(KernelError::Count { name: "ends", expected: 3, got: 2 }));
    assert_eq!(group(&both, &[3]), Err(KernelError::Count { name: "ends", expected: 2, got: 1 }));
    let other = random_weight(96, &mut Noise(8));
    let expected = Err(KernelError::RowLength { name: "weights", expected: 64, got: 96 });
    assert_eq!(group(&[&weight, &other], &[1, 3]), expected);
}
