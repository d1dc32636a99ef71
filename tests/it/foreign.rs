//! Programs that know nothing of this crate: ten lines of Python, one row by `sqlite3`.

use std::process::Command;

use crate::support::{Place, eventually, skip, text};

#[test]
fn a_frame_from_ten_lines_of_python_with_only_type_and_payload_is_processed() {
    let place = Place::new();
    let _serve = place.serve();
    let script = r#"
import json, socket, struct, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
for n in range(100):
    b = json.dumps({"type": "candle:complete", "payload": {"n": n}}).encode()
    s.sendall(struct.pack('>I', len(b)) + b)
s.close()
"#;
    let Ok(python) = Command::new("python3")
        .arg("-c")
        .arg(script)
        .arg(place.socket())
        .output()
    else {
        return skip("no python3");
    };
    assert!(python.status.success(), "{}", text(&python.stderr));
    eventually("all hundred are processed", || place.lines().len() == 100);
    assert!(
        place
            .lines()
            .iter()
            .all(|line| line["id"].is_string() && line["timestamp"].is_i64())
    );
}

#[test]
fn a_row_inserted_by_the_sqlite3_shell_is_processed() {
    let place = Place::new();
    let _serve = place.serve();
    let sql = "INSERT INTO message_queue(message_id, type, payload, timestamp)
               VALUES ('foreign-1', 'order', '{\"n\":7}', 1700000000000)";
    let Ok(shell) = Command::new("sqlite3")
        .arg(place.database())
        .arg(sql)
        .output()
    else {
        return skip("no sqlite3 shell");
    };
    assert!(shell.status.success(), "{}", text(&shell.stderr));
    eventually("the row is processed", || {
        place
            .lines()
            .first()
            .is_some_and(|line| line["id"] == "foreign-1")
    });
    place.drained();
}
