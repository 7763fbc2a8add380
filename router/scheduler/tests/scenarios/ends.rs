//! How requests end.

use forebay_scheduler::{Event, FinishReason, Limits, NewRequest, RequestId};

use super::rig::{Rig, TOKEN, limits, prompt, request};

fn stopping(id: u64, max_new_tokens: u32) -> NewRequest {
    NewRequest { stop_token_ids: vec![2, TOKEN], ..request(id, prompt(id as u32, 3), max_new_tokens) }
}

#[test]
fn a_stop_id_is_delivered_and_ends_it() {
    let mut rig = Rig::new(limits());
    rig.submit(stopping(1, 9));
    rig.run();
    let token = Event::Token { id: RequestId(1), token_id: TOKEN, num_generated: 1, result_index: 0 };
    let end = Event::Finished { id: RequestId(1), reason: FinishReason::StopToken(TOKEN) };
    assert_eq!(rig.events[1..], [token, end]);
}

#[test]
fn a_stop_id_as_the_last_token_allowed_counts_as_a_stop() {
    let mut rig = Rig::new(limits());
    rig.submit(stopping(1, 1));
    rig.run();
    assert_eq!(rig.end(1), Some(FinishReason::StopToken(TOKEN)));
}

#[test]
fn no_stop_id_within_the_minimum_ends_it() {
    let mut rig = Rig::new(limits());
    rig.submit(NewRequest { min_new_tokens: 3, ..stopping(1, 9) });
    rig.run();
    assert_eq!((rig.tokens(1).len(), rig.end(1)), (4, Some(FinishReason::StopToken(TOKEN))));
}

#[test]
fn without_a_stop_id_the_length_ends_it() {
    let mut rig = Rig::new(limits());
    rig.submit(request(1, prompt(1, 3), 5));
    rig.run();
    assert_eq!((rig.tokens(1).len(), rig.end(1)), (5, Some(FinishReason::Length)));
}

#[test]
fn a_generation_taken_up_again_counts_what_it_had() {
    let mut rig = Rig::new(limits());
    rig.submit(NewRequest { num_prompt_tokens: 3, ..request(1, prompt(1, 5), 4) });
    let plan = rig.step();
    assert_eq!((plan.new_sequences[0].num_prompt_tokens, plan.rows[0].num_tokens), (3, 5));
    rig.run();
    assert_eq!((rig.tokens(1).len(), rig.end(1)), (2, Some(FinishReason::Length)));
}

#[test]
fn a_cancelled_request_learns_nothing_more_wherever_it_was() {
    for num_steps in 0..4 {
        let mut rig = Rig::new(Limits { max_plan_tokens: 4, ..limits() });
        rig.submit(request(1, prompt(1, 9), 9));
        let plans: Vec<_> = (0..num_steps).map(|_| (rig.events.clear(), rig.step()).1).collect();
        let in_flight = [rig.plan(), rig.plan()];
        rig.events.clear();
        rig.scheduler.cancel(RequestId(1));
        for plan in &in_flight {
            rig.answer(plan);
        }
        assert_eq!((rig.try_plan(), &rig.events[..]), (None, &[][..]), "after {} steps", plans.len());
        let stats = rig.scheduler.stats();
        assert_eq!((rig.blocks_in_use(), stats.running, stats.queued), (0, 0, 0));
    }
}

#[test]
fn a_request_cancelled_in_line_leaves_it() {
    let mut rig = Rig::new(limits());
    rig.submit(request(1, prompt(1, 9), 9));
    rig.scheduler.cancel(RequestId(1));
    assert_eq!((rig.try_plan(), rig.scheduler.stats().queued_tokens), (None, 0));
}
