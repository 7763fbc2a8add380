//! Reads the metadata of a GGUF header (v2, v3): `tokenizer.*` and `general.*` keys; the rest is stepped over.
//!
//! A header comes from anywhere, so nothing in it is believed: every count and length is checked against a limit and
//! against what is left of the file before memory is taken for it. Tensors are the worker's business.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::{Path, PathBuf};

use crate::error::TextError;

const MAGIC: &[u8; 4] = b"GGUF";
const MAX_KEYS: u64 = 1 << 16;
const MAX_KEY_BYTES: u64 = 1 << 16;
const MAX_STRING_BYTES: u64 = 1 << 24;
const MAX_ARRAY_LEN: u64 = 1 << 24;
const MAX_ARRAY_DEPTH: u32 = 4;
/// All values together, as they lie in memory. Vocabularies of 256,000 tokens with their merges take 60 MiB.
const MAX_KEPT_BYTES: u64 = 1 << 29;

/// A metadata value, widened.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Bool(bool),
    Int(i64),
    Float(f64),
    String(String),
    Strings(Vec<String>),
    Ints(Vec<i64>),
    Floats(Vec<f32>),
    /// A kind that no caller needs (arrays of doubles, bools or arrays, integers beyond i64).
    Other,
}

/// The keys of one header.
#[derive(Debug)]
pub(crate) struct Metadata {
    path: PathBuf,
    values: HashMap<String, Value>,
}

impl Metadata {
    /// Opens a file and reads its header.
    pub(crate) fn read(path: &Path) -> Result<Self, TextError> {
        let fail = |reason: String| TextError::File { path: path.to_owned(), reason };
        let file = File::open(path).map_err(|error| fail(error.to_string()))?;
        let len = file.metadata().map_err(|error| fail(error.to_string()))?.len();
        let input = BufReader::with_capacity(1 << 16, file);
        let mut reader = Reader { input, left: len, max_kept: MAX_KEPT_BYTES };
        let values = reader.header().map_err(fail)?;
        Ok(Self { path: path.to_owned(), values })
    }

    /// The file, for error messages.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// An error about this file.
    pub(crate) fn error(&self, reason: impl Into<String>) -> TextError {
        TextError::File { path: self.path.clone(), reason: reason.into() }
    }

    /// Every key with its value, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.values.iter().map(|(key, value)| (key.as_str(), value))
    }

    pub(crate) fn string(&self, key: &str) -> Result<Option<&str>, TextError> {
        self.typed(key, "a string", |value| if let Value::String(text) = value { Some(text.as_str()) } else { None })
    }

    pub(crate) fn strings(&self, key: &str) -> Result<Option<&[String]>, TextError> {
        self.typed(key, "an array of strings", |value| match value {
            Value::Strings(items) => Some(items.as_slice()),
            Value::Ints(items) if items.is_empty() => Some(&[]),
            _ => None,
        })
    }

    pub(crate) fn ints(&self, key: &str) -> Result<Option<&[i64]>, TextError> {
        self.typed(key, "an array of integers", |value| {
            if let Value::Ints(items) = value { Some(items.as_slice()) } else { None }
        })
    }

    pub(crate) fn floats(&self, key: &str) -> Result<Option<&[f32]>, TextError> {
        self.typed(key, "an array of 32-bit floats", |value| {
            if let Value::Floats(items) = value { Some(items.as_slice()) } else { None }
        })
    }

    pub(crate) fn bool(&self, key: &str) -> Result<Option<bool>, TextError> {
        self.typed(key, "a bool", |value| if let Value::Bool(flag) = value { Some(*flag) } else { None })
    }

    /// A token id; all ones (llama.cpp's "none") reads as absent.
    pub(crate) fn token_id(&self, key: &str) -> Result<Option<u32>, TextError> {
        const NONE: i64 = u32::MAX as i64;
        let id = self.typed(key, "a token id", |value| match value {
            Value::Int(id @ (-1..=NONE)) => Some(*id),
            _ => None,
        })?;
        Ok(id.filter(|&id| id != -1 && id != NONE).map(|id| id as u32))
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        get: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, TextError> {
        let Some(value) = self.values.get(key) else { return Ok(None) };
        get(value).map(Some).ok_or_else(|| self.error(format!("key `{key}` is not {expected}")))
    }
}

/// GGUF's value types by their number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Unsigned(u8),
    Signed(u8),
    Float(u8),
    Bool,
    String,
    Array,
}

impl Kind {
    fn from_number(number: u32) -> Result<Self, String> {
        Ok(match number {
            0 => Self::Unsigned(1),
            1 => Self::Signed(1),
            2 => Self::Unsigned(2),
            3 => Self::Signed(2),
            4 => Self::Unsigned(4),
            5 => Self::Signed(4),
            6 => Self::Float(4),
            7 => Self::Bool,
            8 => Self::String,
            9 => Self::Array,
            10 => Self::Unsigned(8),
            11 => Self::Signed(8),
            12 => Self::Float(8),
            _ => return Err(format!("value type `{number}` is unknown")),
        })
    }

    /// The least number of bytes that a value takes.
    fn min_bytes(self) -> u64 {
        match self {
            Self::Unsigned(bytes) | Self::Signed(bytes) | Self::Float(bytes) => u64::from(bytes),
            Self::Bool => 1,
            Self::String => 8,
            Self::Array => 12,
        }
    }

    /// What an element of a kept array takes in memory, a string without its characters.
    fn kept_bytes(self) -> u64 {
        match self {
            Self::Unsigned(_) | Self::Signed(_) => size_of::<i64>() as u64,
            Self::Float(4) => size_of::<f32>() as u64,
            Self::String => size_of::<String>() as u64,
            Self::Float(_) | Self::Bool | Self::Array => 0,
        }
    }
}

/// Reads little-endian values, never past the end of the file.
struct Reader<R> {
    input: R,
    left: u64,
    /// What may still be kept in memory.
    max_kept: u64,
}

impl<R: Read + Seek> Reader<R> {
    fn header(&mut self) -> Result<HashMap<String, Value>, String> {
        if &self.bytes::<4>()? != MAGIC {
            return Err("not a GGUF file: it does not begin with `GGUF`".to_owned());
        }
        let version = self.u32()?;
        if !(2..=3).contains(&version) {
            return Err(format!("GGUF version `{version}` is not supported (2 and 3 are; big-endian files are not)"));
        }
        let _num_tensors = self.u64()?;
        let num_keys = self.u64()?;
        if num_keys > MAX_KEYS {
            return Err(format!("`{num_keys}` metadata keys exceed the limit of {MAX_KEYS}"));
        }
        let mut values = HashMap::new();
        for index in 0..num_keys {
            let key = self.string(MAX_KEY_BYTES).map_err(|reason| format!("metadata key {index}: {reason}"))?;
            let wanted = key.starts_with("tokenizer.") || key.starts_with("general.");
            let value = self.value(wanted).map_err(|reason| format!("key `{key}`: {reason}"))?;
            if wanted && values.insert(key.clone(), value).is_some() {
                return Err(format!("key `{key}` occurs twice"));
            }
        }
        Ok(values)
    }

    fn value(&mut self, wanted: bool) -> Result<Value, String> {
        let kind = self.kind()?;
        match kind {
            Kind::Array if wanted => self.array(),
            Kind::Array => self.skip_array(1).map(|()| Value::Other),
            Kind::String if !wanted => self.skip_string().map(|()| Value::Other),
            Kind::String => self.string(MAX_STRING_BYTES).map(Value::String),
            Kind::Float(4) => Ok(Value::Float(f64::from(f32::from_le_bytes(self.bytes()?)))),
            Kind::Float(_) => Ok(Value::Float(f64::from_le_bytes(self.bytes()?))),
            Kind::Bool => match self.bytes::<1>()? {
                [0] => Ok(Value::Bool(false)),
                [1] => Ok(Value::Bool(true)),
                [other] => Err(format!("bool value `{other}` is neither 0 nor 1")),
            },
            Kind::Unsigned(_) | Kind::Signed(_) => Ok(self.integer(kind)?.map_or(Value::Other, Value::Int)),
        }
    }

    fn array(&mut self) -> Result<Value, String> {
        let (kind, len) = self.array_head()?;
        self.keep(len as u64 * kind.kept_bytes())?;
        match kind {
            Kind::String => {
                let mut items = Vec::with_capacity(len);
                for index in 0..len {
                    items.push(self.string(MAX_STRING_BYTES).map_err(|reason| format!("element {index}: {reason}"))?);
                }
                Ok(Value::Strings(items))
            }
            Kind::Unsigned(_) | Kind::Signed(_) => {
                let mut items = Vec::with_capacity(len);
                for index in 0..len {
                    let item = self.integer(kind)?;
                    items.push(item.ok_or_else(|| format!("element {index} exceeds the range of a signed integer"))?);
                }
                Ok(Value::Ints(items))
            }
            Kind::Float(4) => {
                let mut items = Vec::with_capacity(len);
                for _ in 0..len {
                    items.push(f32::from_le_bytes(self.bytes()?));
                }
                Ok(Value::Floats(items))
            }
            Kind::Float(_) | Kind::Bool | Kind::Array => {
                self.skip_items(kind, len as u64, 1)?;
                Ok(Value::Other)
            }
        }
    }

    /// Counts what is about to be kept.
    fn keep(&mut self, bytes: u64) -> Result<(), String> {
        let left = self.max_kept.checked_sub(bytes);
        self.max_kept =
            left.ok_or_else(|| format!("the header's values exceed the limit of {MAX_KEPT_BYTES} bytes"))?;
        Ok(())
    }

    fn array_head(&mut self) -> Result<(Kind, usize), String> {
        let kind = self.kind()?;
        let len = self.u64()?;
        if len > MAX_ARRAY_LEN {
            return Err(format!("array of `{len}` elements exceeds the limit of {MAX_ARRAY_LEN}"));
        }
        if len.checked_mul(kind.min_bytes()).is_none_or(|bytes| bytes > self.left) {
            return Err(format!("array of `{len}` elements is longer than the rest of the file"));
        }
        Ok((kind, len as usize))
    }

    fn skip_array(&mut self, depth: u32) -> Result<(), String> {
        if depth > MAX_ARRAY_DEPTH {
            return Err(format!("arrays are nested deeper than {MAX_ARRAY_DEPTH}"));
        }
        let (kind, len) = self.array_head()?;
        self.skip_items(kind, len as u64, depth)
    }

    fn skip_items(&mut self, kind: Kind, len: u64, depth: u32) -> Result<(), String> {
        match kind {
            Kind::String => (0..len).try_for_each(|_| self.skip_string()),
            Kind::Array => (0..len).try_for_each(|_| self.skip_array(depth + 1)),
            fixed => self.skip(len * fixed.min_bytes()),
        }
    }

    fn skip_string(&mut self) -> Result<(), String> {
        let len = self.u64()?;
        self.skip(len)
    }

    fn skip(&mut self, bytes: u64) -> Result<(), String> {
        let offset = i64::try_from(bytes).ok().filter(|_| bytes <= self.left);
        let offset = offset.ok_or_else(|| format!("a value of `{bytes}` bytes is longer than the rest of the file"))?;
        self.left -= bytes;
        self.input.seek_relative(offset).map_err(|error| error.to_string())
    }

    fn integer(&mut self, kind: Kind) -> Result<Option<i64>, String> {
        Ok(match kind {
            Kind::Unsigned(1) => Some(i64::from(u8::from_le_bytes(self.bytes()?))),
            Kind::Signed(1) => Some(i64::from(i8::from_le_bytes(self.bytes()?))),
            Kind::Unsigned(2) => Some(i64::from(u16::from_le_bytes(self.bytes()?))),
            Kind::Signed(2) => Some(i64::from(i16::from_le_bytes(self.bytes()?))),
            Kind::Unsigned(4) => Some(i64::from(self.u32()?)),
            Kind::Signed(4) => Some(i64::from(i32::from_le_bytes(self.bytes()?))),
            Kind::Unsigned(_) => i64::try_from(self.u64()?).ok(),
            _ => Some(i64::from_le_bytes(self.bytes()?)),
        })
    }

    fn string(&mut self, max_bytes: u64) -> Result<String, String> {
        let len = self.u64()?;
        if len > max_bytes {
            return Err(format!("string of `{len}` bytes exceeds the limit of {max_bytes}"));
        }
        if len > self.left {
            return Err(format!("string of `{len}` bytes is longer than the rest of the file"));
        }
        self.keep(len)?;
        let mut bytes = vec![0; len as usize];
        self.fill(&mut bytes)?;
        String::from_utf8(bytes).map_err(|_| "string is not UTF-8".to_owned())
    }

    fn kind(&mut self) -> Result<Kind, String> {
        Kind::from_number(self.u32()?)
    }

    fn u32(&mut self) -> Result<u32, String> {
        self.bytes().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, String> {
        self.bytes().map(u64::from_le_bytes)
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), String> {
        let len = bytes.len() as u64;
        if len > self.left {
            return Err("the file ends inside the header".to_owned());
        }
        self.left -= len;
        self.input.read_exact(bytes).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests;
