use super::*;

fn lines_of(pieces: &[&[u8]]) -> Vec<Vec<u8>> {
    let mut splitter = LineSplitter::default();
    let mut lines = Vec::new();
    for piece in pieces {
        splitter.push(piece, &mut |line| lines.push(line.to_vec()));
    }
    splitter.finish(&mut |line| lines.push(line.to_vec()));
    lines
}

#[test]
fn lines_are_whole_whatever_pieces_they_come_in() {
    assert_eq!(lines_of(&[b"on", b"e\ntw", b"o\n\nthree\n"]), [b"one".to_vec(), b"two".to_vec(), b"three".to_vec()]);
}

#[test]
fn a_line_without_an_end_is_written_at_the_end_of_file() {
    assert_eq!(lines_of(&[b"one\npart"]), [b"one".to_vec(), b"part".to_vec()]);
}

#[test]
fn a_long_line_is_cut_in_pieces_and_nothing_is_lost() {
    let long = "é".repeat(MAX_LINE_BYTES) + "end\nnext";
    let lines = lines_of(&[&b"x"[..], long.as_bytes()]);
    assert!(lines.iter().all(|line| line.len() <= MAX_LINE_BYTES));
    assert!(lines.iter().all(|line| std::str::from_utf8(line).is_ok()), "cut inside a character");
    assert_eq!(lines.concat(), ("x".to_owned() + &long.replace('\n', "")).into_bytes());
    assert_eq!(lines.last().unwrap(), b"next");
}

#[test]
fn bytes_that_are_no_text_are_replaced_not_dropped() {
    assert_eq!(read_line(b"a\xFFb"), Line { level: Level::INFO, text: "a\u{FFFD}b".to_owned() });
    let stray = vec![0x80; MAX_LINE_BYTES + 10];
    assert_eq!(lines_of(&[&stray]).concat(), stray);
}

#[test]
fn a_json_line_gives_level_target_message_and_traceback() {
    let line = br#"{"level":"warn","target":"forebay_worker.memory","message":"low","traceback":"T"}"#;
    assert_eq!(read_line(line), Line { level: Level::WARN, text: "forebay_worker.memory: low\nT".to_owned() });
}

#[test]
fn other_json_and_plain_text_count_as_information() {
    for text in [r#"{"message":"x"}"#, r#"{"level":3,"message":"x"}"#, "[1]", "Traceback (most recent call last):"] {
        assert_eq!(read_line(text.as_bytes()), Line { level: Level::INFO, text: text.to_owned() });
    }
}

#[tokio::test]
async fn the_last_lines_are_kept_for_the_error() {
    let last = LastLines::default();
    let output = (0..20).map(|number| format!("line {number}")).collect::<Vec<_>>().join("\n");
    relay(output.as_bytes(), "worker 0".to_owned(), last.clone()).await;
    let expected: Vec<String> = (12..20).map(|number| format!("line {number}")).collect();
    assert_eq!(last.text(), expected.join("\n"));
}
