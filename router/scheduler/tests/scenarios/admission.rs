//! Who gets in, in which order, and who is turned away.

use forebay_scheduler::{FinishReason, Limits, RequestId, StepPlan, SubmitError, Time};

use super::rig::{Rig, limits, new_ids, prompt, request, widths};

#[test]
fn a_long_prompt_is_computed_in_chunks_and_samples_in_the_last() {
    let mut rig = Rig::new(limits());
    rig.submit(request(1, prompt(1, 20), 1));
    let (first, second) = (rig.plan(), rig.plan());
    assert_eq!((widths(&first), widths(&second)), (vec![16], vec![4]));
    assert_eq!((first.rows[0].flags.0, second.rows[0].flags.0), (0, 3));
    assert!(second.new_sequences.is_empty(), "it is sent once");
    rig.answer(&first);
    rig.answer(&second);
    assert_eq!(rig.end(1), Some(FinishReason::Length));
}

#[test]
fn decodes_go_first_by_slot_and_prompts_share_what_is_left() {
    let mut rig = Rig::new(limits());
    rig.submit(request(1, prompt(1, 3), 9));
    rig.submit(request(2, prompt(2, 3), 9));
    rig.step();
    rig.submit(request(3, prompt(3, 30), 1));
    let plan = rig.step();
    assert_eq!((plan.num_decodes, widths(&plan)), (2, vec![1, 1, 14]));
    assert!(plan.rows[0].sequence.slot < plan.rows[1].sequence.slot);
}

#[test]
fn smaller_priorities_run_first_and_equals_in_order_of_arrival() {
    let mut rig = Rig::new(Limits { max_sequences: 1, ..limits() });
    for (id, priority) in [(1, 1), (2, 0), (3, 1), (4, 0)] {
        rig.submit(forebay_scheduler::NewRequest { priority, ..request(id, prompt(id as u32, 3), 1) });
    }
    let order: Vec<u64> =
        std::iter::from_fn(|| rig.try_plan().map(|plan| (rig.answer(&plan), new_ids(&plan)[0]).1)).collect();
    assert_eq!(order, [2, 4, 1, 3]);
}

#[test]
fn a_full_line_refuses_and_says_when_to_come_back() {
    let mut rig = Rig::new(Limits { max_queued: 2, max_sequences: 1, ..limits() });
    for id in 1..=3 {
        rig.now = Time(id * 1_000_000);
        rig.submit(request(id, prompt(id as u32, 4), 1));
        if id == 1 {
            rig.step();
        }
    }
    // One left the line at 1 s; now it is 3 s.
    let refusal = rig.scheduler.submit(request(4, prompt(4, 4), 1), rig.now);
    assert_eq!(refusal, Err(SubmitError::QueueFull { queued: 2, limit: 2, retry_after_ms: 2_000 }));
    rig.run();
    assert_eq!(rig.scheduler.submit(request(4, prompt(4, 4), 1), rig.now), Ok(()));
}

#[test]
fn a_line_full_of_tokens_refuses_but_a_lone_prompt_may_wait() {
    let mut rig = Rig::new(Limits { max_queued_tokens: 10, ..limits() });
    rig.submit(request(1, prompt(1, 30), 1));
    let refusal = rig.scheduler.submit(request(2, prompt(2, 1), 1), rig.now);
    let expected = SubmitError::QueueTokensFull { queued_tokens: 30, limit: 10, retry_after_ms: 1_000 };
    assert_eq!(refusal, Err(expected));
}

#[test]
fn what_can_never_run_is_refused_at_once() {
    let mut scheduler = Rig::new(Limits { max_total_tokens: 100, ..limits() }).scheduler;
    let mut submit = |length, max_new| scheduler.submit(request(1, prompt(1, length), max_new), Time(0));
    // 15 blocks hold 60 tokens; one of them is for running ahead.
    assert_eq!(submit(40, 20), Err(SubmitError::NeverFits { needed_blocks: 16, available_blocks: 15 }));
    assert_eq!(submit(90, 11), Err(SubmitError::TooLong { tokens: 101, limit: 100 }));
    assert_eq!(submit(0, 1), Err(SubmitError::Empty));
    assert_eq!(submit(1, 0), Err(SubmitError::Empty));
    assert_eq!(submit(40, 19), Ok(()));
}

#[test]
fn a_prompt_that_must_wait_for_blocks_is_not_passed_by_a_smaller_one() {
    let mut rig = Rig::new(limits());
    rig.submit(request(1, prompt(1, 16), 20));
    rig.submit(request(2, prompt(2, 50), 1));
    rig.submit(request(3, prompt(3, 1), 1));
    assert_eq!(new_ids(&rig.step()), [1]);
    let mut admitted: Vec<StepPlan> = std::iter::from_fn(|| rig.try_plan().inspect(|plan| rig.answer(plan))).collect();
    admitted.retain(|plan| !plan.new_sequences.is_empty());
    assert_eq!(admitted.iter().flat_map(new_ids).collect::<Vec<_>>(), [2, 3]);
}

#[test]
fn a_deadline_ends_a_request_in_line_or_in_a_slot() {
    let mut rig = Rig::new(Limits { max_sequences: 1, ..limits() });
    for id in [1, 2] {
        let deadline = Some(Time(10 * id));
        rig.submit(forebay_scheduler::NewRequest { deadline, ..request(id, prompt(id as u32, 4), 30) });
    }
    assert_eq!(rig.scheduler.next_deadline(), Some(Time(10)));
    let plan = rig.plan();
    rig.now = Time(25);
    rig.answer(&plan);
    assert_eq!(rig.tokens(1).len(), 1, "what came with the result is delivered");
    assert_eq!((rig.end(1), rig.end(2)), (Some(FinishReason::Deadline), Some(FinishReason::Deadline)));
    assert_eq!((rig.try_plan(), rig.blocks_in_use(), rig.scheduler.next_deadline()), (None, 0, None));
}

#[test]
fn a_slot_is_released_and_taken_in_one_plan_under_a_new_epoch() {
    let mut rig = Rig::new(Limits { max_sequences: 1, ..limits() });
    rig.submit(request(1, prompt(1, 4), 1));
    rig.submit(request(2, prompt(2, 4), 1));
    let first = rig.step();
    let second = rig.step();
    assert_eq!(second.released, [first.rows[0].sequence]);
    let (old, new) = (first.rows[0].sequence, second.rows[0].sequence);
    assert_eq!((new.slot, new.epoch), (old.slot, old.epoch + 1));
}

#[test]
fn releases_wait_for_a_plan_with_rows_and_blocks_do_not() {
    let mut rig = Rig::new(limits());
    rig.submit(request(1, prompt(1, 3), 1));
    let first = rig.step();
    assert_eq!((rig.try_plan(), rig.blocks_in_use()), (None, 0));
    rig.submit(request(2, prompt(2, 3), 1));
    assert_eq!(rig.plan().released, [first.rows[0].sequence]);
}

#[test]
fn unknown_ids_are_cancelled_in_silence() {
    let mut rig = Rig::new(limits());
    rig.scheduler.cancel(RequestId(99));
    assert_eq!(rig.events, []);
}
