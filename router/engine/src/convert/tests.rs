use forebay_scheduler::{BlockAppend, Row};

use super::*;

fn u32s(values: &[u32]) -> Bytes {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn f32s(values: &[f32]) -> Bytes {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn sequence(slot: u32, epoch: u32) -> SequenceRef {
    SequenceRef { slot, epoch }
}

fn plan() -> StepPlan {
    StepPlan {
        step_id: 7,
        released: vec![sequence(4, 2)],
        new_sequences: vec![NewSequence {
            id: RequestId(9),
            sequence: sequence(4, 3),
            token_ids: vec![10, 11, 12],
            num_prompt_tokens: 2,
            num_computed_tokens: 1,
            block_ids: vec![5, 6],
        }],
        appends: vec![BlockAppend { slot: 0, block_ids: vec![8] }, BlockAppend { slot: 1, block_ids: vec![9, 1] }],
        num_decodes: 1,
        rows: vec![
            Row { sequence: sequence(0, 1), num_tokens: 1, flags: RowFlags(1) },
            Row { sequence: sequence(4, 3), num_tokens: 2, flags: RowFlags(3) },
        ],
    }
}

fn result() -> wire::StepResult {
    wire::StepResult {
        step_id: 3,
        slots: u32s(&[0, 5]),
        epochs: u32s(&[1, 2]),
        num_tokens: u32s(&[1, 2]),
        token_ids: u32s(&[70, 71, 72]),
        ..wire::StepResult::default()
    }
}

fn malformed(result: wire::StepResult) -> String {
    answer_from_wire(result).expect_err("must be refused").to_string()
}

#[test]
fn a_plan_crosses_as_little_endian_arrays_with_the_requests_sampling() {
    let sampling = SamplingParams { temperature: 0.5, ..SamplingParams::default() };
    let wire = plan_to_wire(&plan(), |id| (id == RequestId(9)).then_some(&sampling)).expect("known");
    assert_eq!((wire.released_slots, wire.released_epochs), (u32s(&[4]), u32s(&[2])));
    assert_eq!((wire.append_slots, wire.append_counts), (u32s(&[0, 1]), u32s(&[1, 2])));
    assert_eq!(wire.append_blocks, u32s(&[8, 9, 1]));
    assert_eq!((wire.num_decodes, wire.row_slots, wire.row_epochs), (1, u32s(&[0, 4]), u32s(&[1, 3])));
    assert_eq!((wire.row_num_tokens, wire.row_flags), (u32s(&[1, 2]), u32s(&[1, 3])));
    let new = &wire.new_sequences[0];
    assert_eq!((new.slot, new.epoch, &new.token_ids), (4, 3, &u32s(&[10, 11, 12])));
    assert_eq!((new.num_prompt_tokens, new.num_computed_tokens, &new.block_ids), (2, 1, &u32s(&[5, 6])));
    assert_eq!(new.sampling, Some(sampling));
}

#[test]
fn a_plan_that_names_an_unknown_request_is_refused() {
    let error = plan_to_wire(&plan(), |_| None).expect_err("unknown");
    assert_eq!(error, GroupError::Lost("a plan names the unknown request `9`".to_owned()));
}

#[test]
fn the_plans_buffer_is_sized_exactly() {
    assert_eq!(num_words(&plan()), 5 + 7 + 2 + 8);
}

#[test]
fn a_result_is_read_row_by_row() {
    let answer = answer_from_wire(result()).expect("well formed");
    let rows = [(sequence(0, 1), vec![70]), (sequence(5, 2), vec![71, 72])];
    let rows = rows.map(|(sequence, token_ids)| SampledRow { sequence, token_ids });
    assert_eq!(answer.result.sampled, rows);
    assert_eq!(answer.logprobs.get(0), None);
}

#[test]
fn alternatives_belong_to_their_token_and_nan_means_not_asked() {
    let answer = answer_from_wire(wire::StepResult {
        logprobs: f32s(&[-1.0, f32::NAN, -3.0]),
        top_counts: u32s(&[2, 0, 1]),
        top_ids: u32s(&[70, 8, 72]),
        top_logprobs: f32s(&[-1.0, -2.0, -3.0]),
        ..result()
    })
    .expect("well formed");
    assert_eq!(answer.logprobs.get(0), Some(TokenLogprobs { logprob: -1.0, top: vec![(70, -1.0), (8, -2.0)] }));
    assert_eq!(answer.logprobs.get(1), None);
    assert_eq!(answer.logprobs.get(2), Some(TokenLogprobs { logprob: -3.0, top: vec![(72, -3.0)] }));
}

#[test]
fn prompt_log_probabilities_carry_their_positions() {
    let chunk = wire::PromptLogprobs {
        slot: 1,
        epoch: 4,
        first_position: 16,
        logprobs: f32s(&[-0.5, -0.25]),
        ranks: u32s(&[9, 1]),
        ..wire::PromptLogprobs::default()
    };
    let result_of = |chunk| wire::StepResult { prompt_logprobs: vec![chunk], ..result() };
    let answer = answer_from_wire(result_of(chunk.clone())).expect("well formed");
    let (of, entries) = &answer.prompt_logprobs[0];
    assert_eq!(*of, sequence(1, 4));
    assert_eq!(
        entries.iter().map(|entry| (entry.position, entry.rank, entry.logprobs.logprob)).collect::<Vec<_>>(),
        [(16, 9, -0.5), (17, 1, -0.25)]
    );
    let ragged = malformed(result_of(wire::PromptLogprobs { ranks: u32s(&[9]), ..chunk }));
    assert!(ragged.ends_with("`ranks` has `1` entries, `logprobs` has `2`"), "{ragged}");
}

#[test]
fn a_result_that_contradicts_itself_is_refused_with_the_contradiction() {
    let ragged = malformed(wire::StepResult { token_ids: u32s(&[70]), ..result() });
    assert_eq!(ragged, "the result of step `3` is malformed: `num_tokens` sums to `3`, `token_ids` has `1` entries");
    let odd = malformed(wire::StepResult { slots: Bytes::from_static(b"abc"), ..result() });
    assert!(odd.ends_with("`slots` has `3` bytes, which is no multiple of 4"), "{odd}");
    let short = malformed(wire::StepResult { epochs: u32s(&[1]), ..result() });
    assert!(short.ends_with("`epochs` has `1` entries, `slots` has `2`"), "{short}");
    let logprobs = malformed(wire::StepResult { logprobs: f32s(&[-1.0]), ..result() });
    assert!(logprobs.ends_with("`1` log-probabilities for `3` tokens"), "{logprobs}");
    let tops = malformed(wire::StepResult { top_ids: u32s(&[1]), ..result() });
    assert!(tops.ends_with("`top_ids` has `1` entries, `top_counts` sums to `0`"), "{tops}");
}
