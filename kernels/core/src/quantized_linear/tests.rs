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
    for _ in 0..num_rows * num_columns / BLOCK {
        blocks.extend(half::f16::from_f32(noise.float() * 0.1).to_le_bytes());
        blocks.extend((2..block_type.file_bytes()).map(|_| noise.next() as u8));
        if block_type == BlockType::Q4_1 {
            let at = blocks.len() - 18;
            blocks[at..at + 2].copy_from_slice(&half::f16::from_f32(noise.float()).to_le_bytes());
        }
    }
    blocks
}

fn random_weight(num_columns: usize, noise: &mut Noise) -> PackedWeight {
    let parts: Vec<_> = [(BlockType::Q4_1, 37), (BlockType::Q8_0, 16), (BlockType::Q4_0, 5)]
        .map(|(block_type, rows)| (block_type, random_blocks(block_type, rows, num_columns, noise)))
        .into();
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
    let weight = random_weight(96, &mut noise);
    let mut dense = vec![0.0; weight.num_rows() * 96];
    dequantize(&weight, &mut dense).unwrap();
    let x: Vec<f32> = (0..13 * 96).map(|_| noise.float()).collect();
    for set in InstructionSet::available() {
        let out = multiply(&x, &weight, set);
        for (t, x) in x.chunks_exact(96).enumerate() {
            for (n, row) in dense.chunks_exact(96).enumerate() {
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
    let weight = random_weight(576, &mut noise);
    let x: Vec<f32> = (0..7 * 576).map(|_| noise.float()).collect();
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
    let ids = [57, 0, 36, 37, 52, 53];
    let mut out = vec![0.0; ids.len() * 64];
    quantized_embedding(&ids, &weight, &mut out).unwrap();
    for (id, row) in ids.iter().zip(out.chunks_exact(64)) {
        assert_eq!(row, &dense[*id as usize * 64..][..64]);
    }
    let error = quantized_embedding(&[3, 58], &weight, &mut out[..128]).unwrap_err();
    assert_eq!(error, KernelError::Index { name: "ids", at: 1, got: 58, limit: 58 });
}

#[test]
fn wrong_shapes_are_refused() {
    assert_eq!(PackedWeight::new(&[], 48).unwrap_err(), KernelError::Columns(48));
    let ragged = Segment { blocks: &[0; 50], block_type: BlockType::Q4_0 };
    assert!(PackedWeight::new(&[ragged], 64).is_err());
    let weight = random_weight(64, &mut Noise(5));
    let error = quantized_linear(Rows::contiguous(&[0.0f32; 32], 32), &weight, &mut [], InstructionSet::best());
    assert_eq!(error, Err(KernelError::RowLength { name: "x", expected: 64, got: 32 }));
}
