//! `/metrics`: the engine's counters in Prometheus' text format.

use pg_caption_wire::EngineStatus;
use std::fmt::Write;

/// The text. `in_flight`: requests of this server, and the most there may be.
pub fn text(status: &EngineStatus, in_flight: (usize, usize), refused: u64) -> String {
    let mut text = String::new();
    let mut add = |name: &str, kind: &str, help: &str, value: f64| {
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "# HELP pg_caption_{name} {help}\n# TYPE pg_caption_{name} {kind}\n\
             pg_caption_{name} {value}\n"
        );
    };
    let up = f64::from(u8::from(status.state == "ready"));
    add("engine_up", "gauge", "1 while the model answers", up);
    add("engine_uptime_seconds", "gauge", "Time since the start", status.uptime_s);
    add("http_in_flight", "gauge", "Requests in flight", in_flight.0 as f64);
    add("http_in_flight_limit", "gauge", "Most requests in flight", in_flight.1 as f64);
    add("http_refused_total", "counter", "Requests refused because of the limit", refused as f64);
    let answered = status.answered as f64;
    add("engine_answered_total", "counter", "Requests answered", answered);
    add("engine_captions_total", "counter", "Captions written", status.generated as f64);
    add("engine_pictures_total", "counter", "Pictures encoded", status.encoded as f64);
    add("engine_batches_total", "counter", "Calls of the encoder", status.encode_calls as f64);
    add("engine_resident_bytes", "gauge", "Resident memory", status.rss as f64);
    let cpu = status.cpu_ms.total / 1000.0;
    add("engine_cpu_seconds_total", "counter", "Processor time of all stages", cpu);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_metric_has_help_type_and_value() {
        let text = text(&EngineStatus { answered: 7, ..EngineStatus::default() }, (1, 256), 0);
        assert!(text.contains("\npg_caption_engine_answered_total 7\n"));
        let lines: Vec<&str> = text.lines().collect();
        for three in lines.chunks(3) {
            let name = three[2].split(' ').next().unwrap();
            assert!(three[0].starts_with(&format!("# HELP {name} ")), "{three:?}");
            assert!(three[1].starts_with(&format!("# TYPE {name} ")), "{three:?}");
        }
    }
}
