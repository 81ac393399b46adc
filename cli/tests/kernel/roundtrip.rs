//! A table that is saved, emptied and loaded again is the same, with flows of every kind.

use ctflow_lab::Lab;
use ctflow_lab::topology::Firewall;

use super::change::{args, load_by};
use super::compare::{Ours, as_1_4_9, conntrack, with_labels};
use super::kinds::{create_every_kind, ftp, record_all, traffic};
use super::support::{PROGRAM, Ran, flush, run};

/// The program in an environment where labels have names.
struct Named {
    _folder: tempfile::TempDir,
    path: String,
}

impl Named {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { path: with_labels(folder.path(), PROGRAM), _folder: folder }
    }

    fn run(&self, line: &str) -> Ran {
        run(&self.path, &args(line))
    }

    /// Returns the lines of the table in one output, sorted, without counters and timeouts.
    fn table(&self, output: &str) -> Vec<String> {
        let (code, stdout, _) = self.run(&format!("-L -o {output}"));
        assert_eq!(code, 0);
        let mut lines: Vec<_> = stdout.lines().map(without_counters).collect();
        lines.sort();
        lines
    }
}

/// Returns a line without timeout, counters and times, which start again in a new flow.
fn without_counters(line: &str) -> String {
    let passing = ["packets=", "bytes=", "delta-time=", "use="];
    let mut words: Vec<_> = line.split(' ').filter(|word| !word.is_empty()).collect();
    words.retain(|word| !passing.iter().any(|name| word.starts_with(name)));
    // `-A -t 5 …`, or `ipv4 2 tcp 6 5 …`
    let timeout = if words[0].starts_with('-') { 2 } else { 4 };
    words.remove(timeout);
    words.join(" ")
}

#[test]
fn a_table_that_is_saved_emptied_and_loaded_is_the_same() {
    ctflow_lab::isolated!({
        let named = Named::new();
        let firewall = Firewall::build(&Lab::enter().unwrap()).unwrap();
        record_all();
        create_every_kind();
        firewall.client.run(traffic);
        let _talk = ftp(&firewall);
        // Labels without a name cannot be saved, because no option accepts their numbers.
        assert_eq!(named.run("-D -p udp -s 10.0.4.1 --sport 4").0, 0);
        let outputs = ["save", "extended,labels"];
        let before = outputs.map(|output| named.table(output));
        let (_, saved, _) = named.run("-L -o save");
        for word in
            [" -m 4294967295", " --label-add web", " --ct-helper ftp", " -w 7 ", " --orig-zone 3 ", " --reply-zone 4 "]
        {
            assert!(saved.contains(word), "{word} is saved");
        }
        flush();
        assert_eq!(load_by(&named.path, &saved), (0, String::new(), String::new()));
        for (output, before) in outputs.into_iter().zip(before) {
            let after = named.table(output);
            let differ: Vec<_> = before.iter().zip(&after).filter(|(before, after)| before != after).collect();
            assert!(differ.is_empty() && before.len() == after.len(), "{output}: {differ:#?}");
        }
    });
}

/// Loading a saved line again changes nothing. The kernel refuses lines that set NAT, or the timeout of a flow with a
/// fixed timeout.
#[test]
fn lines_that_add_a_flow_change_an_existing_one() {
    ctflow_lab::isolated!({
        let named = Named::new();
        let _lab = Lab::enter().unwrap();
        record_all();
        create_every_kind();
        let before = named.table("save");
        let (_, saved, _) = named.run("-L -o save");
        let changeable = |line: &&str| ![" -n ", " -g ", "FIXED_TIMEOUT"].iter().any(|word| line.contains(word));
        let (again, refused): (Vec<_>, Vec<_>) = saved.lines().partition(changeable);
        assert_eq!(load_by(&named.path, &(again.join("\n") + "\n")), (0, String::new(), String::new()));
        assert_eq!(named.table("save"), before);
        for line in refused {
            let (code, _, stderr) = load_by(&named.path, &format!("{line}\n"));
            assert!(code == 1 && stderr.contains("line 1: "), "{line}: {stderr}");
        }
        assert_eq!(named.table("save"), before);
        let line = "-A -p udp -s 10.0.1.1 -d 10.0.1.2 --sport 1200 --dport 443 -t 44 -m 9 -u SEEN_REPLY,ASSURED";
        let (code, _, stderr) = named.run(line);
        assert!(code == 0 && stderr.ends_with("1 flow entries have been added.\n"), "{stderr}");
        assert!(named.run("-L -m 9").1.contains("[ASSURED] mark=9"));
    });
}

/// ctflow loads what conntrack saves, and conntrack loads what ctflow saves, as far as it has the options.
#[test]
fn either_tool_loads_what_the_other_saved() {
    let theirs = ctflow_lab::or_skip!(conntrack());
    ctflow_lab::isolated!({
        let ours = Ours::new();
        let _lab = Lab::enter().unwrap();
        let listed = |program: &str| {
            let mut lines: Vec<_> = run(program, &args("-L -o extended")).1.lines().map(without_counters).collect();
            lines.sort();
            lines
        };
        // conntrack writes the tags of SCTP in the wrong byte order, and can neither save nor load the other kinds in
        // `foreign`. Of a flow with NAT of both ends it loads the addresses without the ports.
        let both_ends = |line: &str| line.contains(" -n ") && line.contains(" -g ");
        let foreign = ["-p sctp", "-p dccp", "--label-add", "--ct-helper", ":4002"];
        let common = |saved: &str| {
            let lines =
                saved.lines().filter(|line| !both_ends(line) && !foreign.iter().any(|word| line.contains(word)));
            lines.map(|line| line.to_owned() + "\n").collect::<String>()
        };
        create_without_marks();
        flush();
        for (saver, loader) in [(theirs, ours.path.as_str()), (ours.path.as_str(), theirs)] {
            create_without_marks();
            let saved = common(&run(saver, &args("-L -o save")).1);
            flush();
            assert_eq!(as_1_4_9(load_by(ours.path.as_str(), &saved)), (0, String::new(), String::new()));
            let expected = listed(theirs);
            flush();
            let (code, _, stderr) = load_by(loader, &saved);
            assert_eq!(code, 0, "{loader}: {stderr}");
            let loaded = listed(theirs);
            let differ: Vec<_> = expected.iter().zip(&loaded).filter(|(expected, loaded)| expected != loaded).collect();
            assert!(differ.is_empty() && expected.len() == loaded.len(), "saved by {saver}: {differ:#?}");
            flush();
        }
    });
}

/// Creates flows of every kind, except those with marks, which conntrack does not save.
fn create_without_marks() {
    record_all();
    create_every_kind();
    assert_eq!(run(PROGRAM, &args("-D -m 0x1/0x1")).0, 0);
    assert_eq!(run(PROGRAM, &args("-D -m 42")).0, 0);
}
