//! The range of each number, in each dialect's words.

use std::ops::{Bound, RangeBounds};

use crate::error::ApiError;
use crate::fields::Fields;
use crate::schema::{Schema, integer, number};

/// An option's name and the range one dialect allows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Range {
    name: &'static str,
    bounds: (Bound<f32>, Bound<f32>),
    words: &'static str,
}

impl Range {
    /// The field of this name.
    pub(crate) fn take(&self, fields: &mut Fields) -> Result<Option<f32>, ApiError> {
        self.check(fields.take(self.name)?)
    }

    pub(crate) fn schema(&self) -> Schema {
        number().within(self.bounds)
    }

    /// `None` stays `None`; a value outside is refused by name. What counts is the value as the worker will see it: a
    /// number that single precision rounds to 0 is 0.
    fn check(&self, value: Option<f64>) -> Result<Option<f32>, ApiError> {
        match value.map(|value| value as f32) {
            None => Ok(None),
            Some(value) if value.is_finite() && self.bounds.contains(&value) => Ok(Some(value)),
            Some(_) => Err(self.refusal()),
        }
    }

    fn refusal(&self) -> ApiError {
        ApiError::validation(self.name, format!("`{}` must be {}", self.name, self.words))
    }
}

/// A count's name and the lowest that one dialect allows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CountRange {
    name: &'static str,
    lowest: i32,
    words: &'static str,
}

impl CountRange {
    /// The field of this name.
    pub(crate) fn take(&self, fields: &mut Fields) -> Result<u32, ApiError> {
        self.check(fields.take(self.name)?)
    }

    pub(crate) fn schema(&self) -> Schema {
        integer().at_least(self.lowest).at_most(i32::MAX)
    }

    /// Nothing and what is not positive are 0, which is off.
    fn check(&self, value: Option<i32>) -> Result<u32, ApiError> {
        match value {
            Some(value) if value < self.lowest => {
                Err(ApiError::validation(self.name, format!("`{}` must be {}", self.name, self.words)))
            }
            value => Ok(value.unwrap_or(0).max(0).unsigned_abs()),
        }
    }
}

/// TGI's ranges, in TGI's words: neutral values are refused for some options.
pub(crate) mod native {
    use std::ops::Bound::{Excluded, Included, Unbounded};

    use super::{CountRange, Range};

    pub(crate) const TEMPERATURE: Range =
        Range { name: "temperature", bounds: (Excluded(0.0), Unbounded), words: "strictly positive" };
    pub(crate) const REPETITION_PENALTY: Range =
        Range { name: "repetition_penalty", bounds: (Excluded(0.0), Unbounded), words: "strictly positive" };
    pub(crate) const FREQUENCY_PENALTY: Range =
        Range { name: "frequency_penalty", bounds: (Included(-2.0), Included(2.0)), words: ">= -2.0 and <= 2.0" };
    pub(crate) const TOP_K: CountRange = CountRange { name: "top_k", lowest: 1, words: "strictly positive" };
    pub(crate) const TOP_P: Range =
        Range { name: "top_p", bounds: (Excluded(0.0), Excluded(1.0)), words: "> 0.0 and < 1.0" };
    pub(crate) const TYPICAL_P: Range =
        Range { name: "typical_p", bounds: (Excluded(0.0), Excluded(1.0)), words: "> 0.0 and < 1.0" };
}

/// OpenAI's ranges, and those of the common extensions.
pub(crate) mod openai {
    use std::ops::Bound::{Excluded, Included, Unbounded};

    use super::{CountRange, Range};

    pub(crate) const TEMPERATURE: Range =
        Range { name: "temperature", bounds: (Included(0.0), Included(2.0)), words: ">= 0 and <= 2" };
    pub(crate) const TOP_P: Range =
        Range { name: "top_p", bounds: (Included(0.0), Included(1.0)), words: ">= 0 and <= 1" };
    pub(crate) const TOP_K: CountRange =
        CountRange { name: "top_k", lowest: -1, words: "positive, or 0 or -1 for off" };
    pub(crate) const TYPICAL_P: Range =
        Range { name: "typical_p", bounds: (Excluded(0.0), Included(1.0)), words: "> 0 and <= 1" };
    pub(crate) const MIN_P: Range =
        Range { name: "min_p", bounds: (Included(0.0), Included(1.0)), words: ">= 0 and <= 1" };
    pub(crate) const REPETITION_PENALTY: Range =
        Range { name: "repetition_penalty", bounds: (Excluded(0.0), Unbounded), words: "strictly positive" };
    pub(crate) const FREQUENCY_PENALTY: Range =
        Range { name: "frequency_penalty", bounds: (Included(-2.0), Included(2.0)), words: ">= -2 and <= 2" };
    pub(crate) const PRESENCE_PENALTY: Range =
        Range { name: "presence_penalty", bounds: (Included(-2.0), Included(2.0)), words: ">= -2 and <= 2" };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neutral_values_are_refused_natively_and_taken_on_v1() {
        assert!(native::TOP_P.check(Some(1.0)).is_err());
        assert!(native::TEMPERATURE.check(Some(0.0)).is_err());
        assert!(native::TOP_K.check(Some(0)).is_err());
        assert_eq!(openai::TOP_P.check(Some(1.0)).unwrap(), Some(1.0));
        assert_eq!(openai::TEMPERATURE.check(Some(0.0)).unwrap(), Some(0.0));
        assert_eq!(openai::TOP_K.check(Some(-1)).unwrap(), 0);
        assert_eq!(openai::TOP_K.check(Some(i32::MAX)).unwrap(), i32::MAX as u32);
    }

    #[test]
    fn a_value_out_of_range_is_named() {
        let error = native::TOP_P.check(Some(1.5)).unwrap_err();
        assert_eq!(error.to_string(), "`top_p` must be > 0.0 and < 1.0");
    }

    #[test]
    fn a_number_that_single_precision_rounds_to_zero_is_zero() {
        assert!(native::TEMPERATURE.check(Some(1e-60)).is_err());
        assert!(openai::REPETITION_PENALTY.check(Some(1e-60)).is_err());
        assert!(openai::PRESENCE_PENALTY.check(Some(1e60)).is_err());
    }
}
