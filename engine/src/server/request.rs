//! A client's request: one line of JSON.

use ctflow_parser::record::Subject;
use ctflow_replicate::Role;
use serde::Deserialize;

use super::failure::Failure;
use crate::takeover::CommitScope;

/// The version of the control socket's protocol.
const VERSION: u32 = 1;

/// A parsed request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    /// Print the status document.
    Status,
    /// List the entries of a cache.
    Dump(Cache, Table),
    /// Follow the events of a table.
    Events(Table),
    /// Flush caches.
    Flush { internal: bool, external: bool },
    /// Flush tables of the kernel.
    FlushKernel { flows: bool, expectations: bool },
    /// Compare the internal cache with the kernel's table.
    KernelResync,
    /// Send the whole internal cache to the peers.
    Bulk,
    /// Inject the external cache into the kernel.
    Commit(CommitScope),
    /// Set the role.
    Role(Role),
    /// Flush the kernel's flows later.
    ScheduleFlush,
    /// Request everything from the peers.
    PeerResync,
    /// Compare replicas with their sources.
    Verify,
    /// Read the configuration again.
    Reload,
    /// Stop the daemon.
    Stop,
}

/// The cache that a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cache {
    /// The flows of this node.
    Internal,
    /// The flows of peers.
    External,
}

/// The table that a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Table {
    /// The flows.
    Flows,
    /// The expectations.
    Expectations,
}

impl Table {
    /// The subject of the kernel's events about the table.
    pub(super) fn subject(self) -> Subject {
        match self {
            Self::Flows => Subject::Flow,
            Self::Expectations => Subject::Expect,
        }
    }
}

/// A request with the keys as they arrive.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestLine {
    #[serde(rename = "version")]
    _version: u32,
    #[serde(rename = "do")]
    what: String,
    cache: Option<String>,
    of: Option<String>,
    role: Option<String>,
}

/// The version alone: a request of another version may have any other keys.
#[derive(Debug, Deserialize)]
struct Versioned {
    version: u32,
}

/// Every value of `do`.
const REQUESTS: [&str; 14] = [
    "status",
    "dump",
    "events",
    "flush",
    "flush-kernel",
    "kernel-resync",
    "bulk",
    "commit",
    "role",
    "schedule-flush",
    "peer-resync",
    "verify",
    "reload",
    "stop",
];

impl Request {
    /// Parses a line.
    ///
    /// # Errors
    /// What is invalid, and what is valid instead.
    pub(super) fn parse(line: &[u8]) -> Result<Self, Failure> {
        let malformed = |error: serde_json::Error| Failure::new(format!("the request is not understood: {error}"));
        let Versioned { version } = serde_json::from_slice(line).map_err(malformed)?;
        if version != VERSION {
            return Err(Failure::new(format!("version {version} is not supported: use version {VERSION}")));
        }
        let line: RequestLine = serde_json::from_slice(line).map_err(malformed)?;
        line.parse()
    }
}

impl RequestLine {
    /// Parses the keys of the request.
    fn parse(&self) -> Result<Request, Failure> {
        if self.what != "role" {
            self.reject_key(&self.role, "role")?;
        }
        Ok(match self.what.as_str() {
            "status" => self.without_arguments(Request::Status)?,
            "dump" => Request::Dump(self.parse_cache()?, self.parse_table()?),
            "events" => Request::Events(self.without_cache()?.parse_table()?),
            "flush" => {
                let (internal, external) = self.without_table()?.parse_one_or_all(&self.cache, "cache", CACHES)?;
                Request::Flush { internal, external }
            }
            "flush-kernel" => {
                let (flows, expectations) = self.without_cache()?.parse_one_or_all(&self.of, "of", TABLES)?;
                Request::FlushKernel { flows, expectations }
            }
            "kernel-resync" => self.without_arguments(Request::KernelResync)?,
            "commit" => {
                let (flows, expectations) = self.without_cache()?.parse_one_or_all(&self.of, "of", TABLES)?;
                Request::Commit(CommitScope { flows, expectations })
            }
            "role" => Request::Role(self.without_cache()?.without_table()?.parse_role()?),
            "schedule-flush" => self.without_arguments(Request::ScheduleFlush)?,
            "bulk" => self.without_arguments(Request::Bulk)?,
            "peer-resync" => self.without_arguments(Request::PeerResync)?,
            "verify" => self.without_arguments(Request::Verify)?,
            "reload" => self.without_arguments(Request::Reload)?,
            "stop" => self.without_arguments(Request::Stop)?,
            other => {
                let known = REQUESTS.join(", ");
                return Err(Failure::new(format!("unknown request `{other}': this daemon knows {known}")));
            }
        })
    }

    /// Returns `request` if the line has no argument.
    fn without_arguments(&self, request: Request) -> Result<Request, Failure> {
        self.without_cache()?.without_table()?;
        Ok(request)
    }

    /// Fails if the line has the key `cache`.
    fn without_cache(&self) -> Result<&Self, Failure> {
        self.reject_key(&self.cache, "cache")
    }

    /// Fails if the line has the key `of`.
    fn without_table(&self) -> Result<&Self, Failure> {
        self.reject_key(&self.of, "of")
    }

    /// Fails if the line has the key `key`, whose value is `given`.
    fn reject_key(&self, given: &Option<String>, key: &str) -> Result<&Self, Failure> {
        match given {
            Some(_) => Err(Failure::new(format!("`{}' takes no `{key}'", self.what))),
            None => Ok(self),
        }
    }

    /// Parses the value of `role`.
    fn parse_role(&self) -> Result<Role, Failure> {
        let role = self.role.as_deref().and_then(Role::from_name);
        role.ok_or_else(|| self.invalid_value("role", &["primary", "backup", "fault"]))
    }

    /// Parses the value of `cache`, which must be one cache.
    fn parse_cache(&self) -> Result<Cache, Failure> {
        match self.parse_one_or_all(&self.cache, "cache", CACHES)? {
            (true, false) => Ok(Cache::Internal),
            (false, true) => Ok(Cache::External),
            _ => Err(self.invalid_value("cache", &CACHES)),
        }
    }

    /// Parses the value of `of`, which must be one table.
    fn parse_table(&self) -> Result<Table, Failure> {
        match self.parse_one_or_all(&self.of, "of", TABLES)? {
            (true, false) => Ok(Table::Flows),
            (false, true) => Ok(Table::Expectations),
            _ => Err(self.invalid_value("of", &TABLES)),
        }
    }

    /// Whether the value `given` of `key` selects the first and the second of `words`; `all` selects both.
    fn parse_one_or_all(&self, given: &Option<String>, key: &str, words: [&str; 2]) -> Result<(bool, bool), Failure> {
        let [first, second] = words;
        match given.as_deref() {
            Some("all") => Ok((true, true)),
            Some(word) if word == first => Ok((true, false)),
            Some(word) if word == second => Ok((false, true)),
            _ => Err(self.invalid_value(key, &[first, second, "all"])),
        }
    }

    /// The failure for a missing or invalid value of `key`.
    fn invalid_value(&self, key: &str, words: &[&str]) -> Failure {
        Failure::new(format!("`{}' needs `{key}': one of {}", self.what, words.join(", ")))
    }
}

/// The caches by name.
const CACHES: [&str; 2] = ["internal", "external"];
/// The tables by name.
const TABLES: [&str; 2] = ["flows", "expectations"];

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Request, String> {
        Request::parse(line.as_bytes()).map_err(|failure| failure.error)
    }

    #[test]
    fn every_request_is_parsed() {
        let dump = r#"{"version":1,"do":"dump","cache":"external","of":"flows"}"#;
        assert_eq!(parse(dump), Ok(Request::Dump(Cache::External, Table::Flows)));
        let flush = r#"{"version":1,"do":"flush","cache":"all"}"#;
        assert_eq!(parse(flush), Ok(Request::Flush { internal: true, external: true }));
        let kernel = r#"{"do":"flush-kernel","of":"expectations","version":1}"#;
        assert_eq!(parse(kernel), Ok(Request::FlushKernel { flows: false, expectations: true }));
        let commit = r#"{"version":1,"do":"commit","of":"all"}"#;
        assert_eq!(parse(commit), Ok(Request::Commit(CommitScope { flows: true, expectations: true })));
        assert_eq!(parse(r#"{"version":1,"do":"role","role":"backup"}"#), Ok(Request::Role(Role::Backup)));
        for what in REQUESTS {
            let alone = parse(&format!(r#"{{"version":1,"do":"{what}"}}"#));
            let has_arguments = ["dump", "events", "flush", "flush-kernel", "commit", "role"].contains(&what);
            assert_eq!(alone.is_err(), has_arguments, "{what}: {alone:?}");
        }
    }

    #[test]
    fn an_invalid_request_fails_with_what_is_valid() {
        for (line, expected) in [
            ("", "not understood"),
            ("[]", "not understood"),
            (r#"{"do":"status"}"#, "missing field `version`"),
            (r#"{"version":2,"do":"status","new":7}"#, "version 2 is not supported: use version 1"),
            (r#"{"version":1,"do":"status","cache":"all"}"#, "`status' takes no `cache'"),
            (r#"{"version":1,"do":"status","what":"all"}"#, "unknown field `what`"),
            (r#"{"version":1,"do":"rule"}"#, "unknown request `rule': this daemon knows status, dump, "),
            (r#"{"version":1,"do":"role","role":"none"}"#, "`role' needs `role': one of primary, backup, fault"),
            (r#"{"version":1,"do":"stop","role":"fault"}"#, "`stop' takes no `role'"),
            (r#"{"version":1,"do":"commit"}"#, "`commit' needs `of': one of flows, expectations, all"),
            (
                r#"{"version":1,"do":"dump","cache":"all","of":"flows"}"#,
                "`dump' needs `cache': one of internal, external",
            ),
            (r#"{"version":1,"do":"flush"}"#, "`flush' needs `cache': one of internal, external, all"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(expected), "{line}: {error}");
        }
    }
}
