//! What is shared, and what must not be.

use forebay_scheduler::{Event, Limits, NewRequest, RequestId};

use super::rig::{Rig, TOKEN, limits, new_ids, new_of, prompt, request};

#[test]
fn a_second_request_with_the_same_prompt_computes_only_its_end() {
    let mut rig = Rig::new(limits());
    rig.submit(request(1, prompt(1, 8), 1));
    let first = rig.step();
    rig.submit(request(2, prompt(1, 8), 1));
    let second = rig.step();
    let new = new_of(&second, 2);
    assert_eq!(new.num_computed_tokens, 4, "one token short of the prompt, in whole blocks");
    assert_eq!(new.block_ids[0], new_of(&first, 1).block_ids[0]);
    assert_eq!(second.rows[0].num_tokens, 4);
    assert!(rig.events.contains(&Event::Started { id: RequestId(2), num_cached_tokens: 4 }));
    let stats = rig.scheduler.stats();
    assert_eq!((stats.prefix_queried_tokens, stats.prefix_hit_tokens), (16, 4));
}

#[test]
fn twins_that_arrive_together_share_what_is_still_being_computed() {
    let mut rig = Rig::new(limits());
    rig.submit(request(1, prompt(1, 9), 4));
    rig.submit(request(2, prompt(1, 9), 4));
    let (first, second) = (rig.plan(), rig.plan());
    assert_eq!(new_ids(&first), [1], "rows of one plan run side by side: the twin waits for the next");
    assert_eq!(new_of(&second, 2).num_computed_tokens, 8);
    assert_eq!(new_of(&second, 2).block_ids[..2], new_of(&first, 1).block_ids[..2]);
}

#[test]
fn generated_tokens_are_found_by_the_next_turn_of_a_conversation() {
    let mut rig = Rig::new(limits());
    rig.submit(request(1, prompt(1, 6), 7));
    rig.run();
    let mut turn = prompt(1, 6);
    turn.extend([TOKEN; 7]);
    turn.extend(prompt(2, 2));
    rig.submit(request(2, turn, 1));
    // 6 prompt tokens and 6 generated ones were computed; the seventh was sampled last.
    assert_eq!(new_of(&rig.step(), 2).num_computed_tokens, 12);
}

#[test]
fn beyond_the_bound_the_oldest_cached_blocks_are_given_out_again_before_new_ones() {
    let mut rig = Rig::new(Limits { max_cached_blocks: 2, run_ahead: 0, ..limits() });
    for id in 1..=3 {
        rig.submit(request(u64::from(id), prompt(id, 8), 1));
        rig.run();
        assert!(rig.scheduler.stats().blocks_cached <= 2);
    }
    let stats = rig.scheduler.stats();
    assert_eq!((stats.evictions, stats.blocks_free), (4, 13));
    // What is left is the newest, and its blocks are the first ones.
    rig.submit(request(4, prompt(3, 8), 1));
    rig.submit(request(5, prompt(1, 8), 1));
    let plan = rig.step();
    assert_eq!(new_of(&plan, 4).num_computed_tokens, 4);
    assert_eq!(new_of(&plan, 5).num_computed_tokens, 0);
    assert!(plan.new_sequences.iter().flat_map(|new| &new.block_ids).all(|&block| block <= 5));
}

#[test]
fn a_bound_of_nothing_still_lets_requests_share_that_run_side_by_side() {
    let mut rig = Rig::new(Limits { max_cached_blocks: 0, ..limits() });
    rig.submit(request(1, prompt(1, 9), 4));
    rig.step();
    rig.submit(request(2, prompt(1, 9), 1));
    assert_eq!(new_of(&rig.step(), 2).num_computed_tokens, 8);
    rig.run();
    assert_eq!(rig.scheduler.stats().blocks_cached, 0);
}

#[test]
fn unequal_salts_share_nothing() {
    let mut rig = Rig::new(limits());
    rig.submit(request(1, prompt(1, 9), 1));
    rig.step();
    rig.submit(NewRequest { cache_salt: 1, ..request(2, prompt(1, 9), 1) });
    assert_eq!(new_of(&rig.step(), 2).num_computed_tokens, 0);
    rig.submit(NewRequest { cache_salt: 1, ..request(3, prompt(1, 9), 1) });
    assert_eq!(new_of(&rig.step(), 3).num_computed_tokens, 8);
}

#[test]
fn a_look_at_a_prefix_finds_what_a_request_would_and_holds_nothing() {
    let mut rig = Rig::new(limits());
    rig.submit(request(1, prompt(1, 9), 1));
    assert_eq!(rig.scheduler.prefix_match_len(&prompt(1, 9), 0), 0);
    let plan = rig.plan();
    assert_eq!(rig.scheduler.prefix_match_len(&prompt(1, 9), 0), 8, "the next plan may read what is in flight");
    assert_eq!(rig.scheduler.prefix_match_len(&prompt(1, 8), 0), 4, "one token short of the prompt");
    assert_eq!(rig.scheduler.prefix_match_len(&prompt(1, 9), 1), 0, "another salt");
    assert_eq!(rig.scheduler.prefix_match_len(&[], 0), 0);
    rig.answer(&plan);
    let before = rig.scheduler.stats();
    assert_eq!(rig.scheduler.prefix_match_len(&prompt(1, 9), 0), 8);
    assert_eq!(rig.scheduler.stats(), before);
}

#[test]
fn a_request_that_needs_its_whole_prompt_computed_reads_no_prefix_but_leaves_one() {
    let mut rig = Rig::new(limits());
    rig.submit(NewRequest { reuse_prefix: false, ..request(1, prompt(1, 9), 1) });
    rig.step();
    rig.submit(NewRequest { reuse_prefix: false, ..request(2, prompt(1, 9), 1) });
    assert_eq!(new_of(&rig.step(), 2).num_computed_tokens, 0);
    rig.submit(request(3, prompt(1, 9), 1));
    assert_eq!(new_of(&rig.step(), 3).num_computed_tokens, 8);
}

#[test]
fn the_leaf_that_was_released_longest_ago_is_evicted_first() {
    let mut rig = Rig::new(Limits { num_blocks: 6, max_total_tokens: 20, run_ahead: 0, ..limits() });
    for first in [1, 2] {
        rig.submit(request(u64::from(first), prompt(first, 8), 1));
        rig.step();
    }
    assert_eq!(rig.scheduler.stats().blocks_cached, 4);
    rig.submit(request(3, prompt(3, 6), 1));
    rig.step();
    assert_eq!(rig.scheduler.stats().evictions, 1, "one block was free, one had to go");
    // The second block of prompt 1 went, its first one stayed.
    rig.submit(request(4, prompt(1, 5), 1));
    assert_eq!(new_of(&rig.step(), 4).num_computed_tokens, 4);
    rig.submit(request(5, prompt(2, 9), 1));
    assert_eq!(new_of(&rig.step(), 5).num_computed_tokens, 8, "prompt 2 was released later");
}

#[test]
fn a_prefix_in_use_is_never_evicted() {
    let mut rig = Rig::new(Limits { num_blocks: 5, max_total_tokens: 16, run_ahead: 0, ..limits() });
    rig.submit(request(1, prompt(1, 9), 4));
    let first = rig.step();
    rig.submit(request(2, prompt(2, 5), 1));
    let second = rig.step();
    assert_eq!(new_ids(&second), [0; 0], "the pool is held, so the newcomer waits");
    rig.run();
    assert_eq!(rig.tokens(1).len(), 4);
    assert_eq!(new_of(&first, 1).block_ids.len(), 3);
}
