use std::fs;
use std::io::Cursor;

use super::*;
use crate::test_gguf::{GgufWriter, write_file};

fn error_of(bytes: &[u8]) -> String {
    let file = write_file(bytes);
    let error = Metadata::read(file.path()).unwrap_err().to_string();
    let name = format!("`{}`: ", file.path().display());
    error.strip_prefix(&name).unwrap_or_else(|| panic!("{error} does not name the file")).to_owned()
}

#[test]
fn a_header_is_read_and_keys_of_the_model_are_stepped_over() {
    let writer = GgufWriter::tiny("smollm").bool("tokenizer.ggml.add_bos_token", true);
    for version in [2, 3] {
        let file = write_file(&writer.bytes(version));
        let metadata = Metadata::read(file.path()).unwrap();
        assert_eq!(metadata.string("tokenizer.ggml.pre").unwrap(), Some("smollm"));
        assert_eq!(metadata.bool("tokenizer.ggml.add_bos_token").unwrap(), Some(true));
        assert_eq!(metadata.token_id("tokenizer.ggml.bos_token_id").unwrap(), Some(306));
        assert_eq!(metadata.token_id("tokenizer.ggml.eot_token_id").unwrap(), None);
        assert_eq!(metadata.string("llama.block_count").unwrap(), None);
    }
}

#[test]
fn a_value_of_another_type_names_the_key() {
    let file = GgufWriter::tiny("smollm").write();
    let metadata = Metadata::read(file.path()).unwrap();
    let error = metadata.ints("tokenizer.ggml.pre").unwrap_err().to_string();
    assert!(error.ends_with("key `tokenizer.ggml.pre` is not an array of integers"), "{error}");
}

#[test]
fn what_is_not_gguf_is_refused() {
    assert_eq!(error_of(b"PK\x03\x04"), "not a GGUF file: it does not begin with `GGUF`");
    assert_eq!(error_of(b""), "the file ends inside the header");
    assert!(error_of(&GgufWriter::new().bytes(1)).starts_with("GGUF version `1` is not supported"));
}

#[test]
fn lengths_beyond_the_file_are_refused_before_memory_is_taken() {
    let long_string = GgufWriter::new().entry("tokenizer.x", 8, |body| body.extend(9_000_000_u64.to_le_bytes()));
    assert_eq!(
        error_of(&long_string.bytes(3)),
        "key `tokenizer.x`: string of `9000000` bytes is longer than the rest of the file"
    );
    let huge_string = GgufWriter::new().entry("tokenizer.x", 8, |body| body.extend(u64::MAX.to_le_bytes()));
    assert!(error_of(&huge_string.bytes(3)).contains("exceeds the limit of 16777216"));
    let long_array = GgufWriter::new().array("tokenizer.x", 8, 1 << 20, |_| ());
    assert_eq!(
        error_of(&long_array.bytes(3)),
        "key `tokenizer.x`: array of `1048576` elements is longer than the rest of the file"
    );
    let huge_array = GgufWriter::new().array("llama.x", 0, usize::MAX, |_| ());
    assert!(error_of(&huge_array.bytes(3)).contains("elements exceeds the limit"));
    let mut many_keys = GgufWriter::new().bytes(3);
    many_keys[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(error_of(&many_keys).contains("metadata keys exceed the limit of 65536"));
}

#[test]
fn what_a_header_keeps_in_memory_is_bounded_as_a_whole() {
    // Ten bytes become ten integers of eight.
    let bytes = |body: &mut Vec<u8>| body.extend([7; 10]);
    let header = GgufWriter::new().array("tokenizer.x", 0, 10, bytes).array("tokenizer.y", 0, 10, bytes).bytes(3);
    let read = |max_kept: u64| {
        let mut reader = Reader { input: Cursor::new(&header), left: header.len() as u64, max_kept };
        reader.header()
    };
    let keys = 2 * "tokenizer.x".len() as u64;
    assert!(read(keys + 160).is_ok());
    let error = read(keys + 159).unwrap_err();
    assert_eq!(error, "key `tokenizer.y`: the header's values exceed the limit of 536870912 bytes");
}

#[test]
fn nested_arrays_are_bounded() {
    let nested = GgufWriter::new().array("llama.x", 9, 1, |body| {
        for _ in 0..100 {
            body.extend(9_u32.to_le_bytes());
            body.extend(1_u64.to_le_bytes());
        }
    });
    assert_eq!(error_of(&nested.bytes(3)), "key `llama.x`: arrays are nested deeper than 4");
}

#[test]
fn bad_values_name_their_key_and_element() {
    let not_utf8 = GgufWriter::new().array("tokenizer.x", 8, 2, |body| {
        body.extend(0_u64.to_le_bytes());
        body.extend(1_u64.to_le_bytes());
        body.push(0xFF);
    });
    assert_eq!(error_of(&not_utf8.bytes(3)), "key `tokenizer.x`: element 1: string is not UTF-8");
    let unknown = GgufWriter::new().entry("tokenizer.x", 77, |_| ());
    assert_eq!(error_of(&unknown.bytes(3)), "key `tokenizer.x`: value type `77` is unknown");
    let twice = GgufWriter::new().u32("tokenizer.x", 1).u32("tokenizer.x", 2);
    assert_eq!(error_of(&twice.bytes(3)), "key `tokenizer.x` occurs twice");
}

#[test]
fn a_file_cut_anywhere_is_an_error_and_never_a_panic() {
    let bytes = GgufWriter::tiny("smollm").bytes(3);
    let file = write_file(&bytes);
    for len in (0..bytes.len()).step_by(7) {
        fs::write(file.path(), &bytes[..len]).unwrap();
        assert!(Metadata::read(file.path()).is_err(), "cut at {len}");
    }
}

#[test]
fn flipped_bytes_never_panic() {
    let bytes = GgufWriter::tiny("smollm").bytes(3);
    let file = write_file(&bytes);
    for at in (0..bytes.len()).step_by(11) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x81;
        fs::write(file.path(), &flipped).unwrap();
        let _outcome = crate::Tokenizer::from_gguf(file.path());
    }
}
