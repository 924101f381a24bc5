//! How much a key may ask for: requests and tokens a minute, and requests at a time.
//!
//! A bucket holds what a minute allows and is refilled evenly (a token bucket, which is the generic cell rate algorithm seen
//! from its other side). What an answer will cost is not known when it begins, so generated tokens are taken as they come, and
//! a bucket may owe: who owes waits until the debt is refilled.

use crate::error::ApiError;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What somebody may ask for; no number is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Requests a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u32>,
    /// Tokens a minute: of prompts when they are admitted, generated ones as they come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<u32>,
    /// Requests at the same time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrent: Option<u32>,
}

impl Limits {
    /// These, and `other`'s where they say nothing.
    pub fn or(self, other: Limits) -> Limits {
        Limits {
            requests_per_minute: self.requests_per_minute.or(other.requests_per_minute),
            tokens_per_minute: self.tokens_per_minute.or(other.tokens_per_minute),
            concurrent: self.concurrent.or(other.concurrent),
        }
    }
}

/// What is left of a minute's allowance.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    level: f64,
    at: Instant,
}

impl Bucket {
    fn refill(&mut self, most: u32, now: Instant) {
        let most = f64::from(most);
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * most / 60.0;
        (self.level, self.at) = ((self.level + gained).min(most), now);
    }

    /// Takes `n`, or says how long until there is enough. More than a minute's allowance is let through when the bucket is
    /// full, and leaves a debt.
    fn take(&mut self, n: f64, most: u32) -> Result<(), Duration> {
        let need = n.min(f64::from(most));
        if self.level >= need {
            self.level -= n;
            return Ok(());
        }
        Err(wait(need - self.level, most))
    }
}

/// How long `amount` takes to come.
fn wait(amount: f64, most: u32) -> Duration {
    let seconds = amount.max(0.0) * 60.0 / f64::from(most.max(1));
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::from_secs(86_400)).min(Duration::from_secs(86_400))
}

#[derive(Debug)]
struct Buckets {
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
    running: u32,
}

/// What somebody has used. It outlives a change of limits.
#[derive(Debug)]
pub struct Account {
    buckets: Mutex<Buckets>,
    /// Requests so far.
    pub requests: AtomicU64,
    /// Tokens of prompts so far.
    pub prompt: AtomicU64,
    /// Generated tokens so far.
    pub generated: AtomicU64,
    /// Requests that were refused because of a limit.
    pub limited: AtomicU64,
}

impl Default for Account {
    fn default() -> Self {
        let buckets = Mutex::new(Buckets { requests: None, tokens: None, running: 0 });
        let zero = || AtomicU64::new(0);
        Self { buckets, requests: zero(), prompt: zero(), generated: zero(), limited: zero() }
    }
}

/// A place among the requests that somebody may have at the same time.
#[derive(Debug)]
pub struct Place(Arc<Account>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.with(|b| b.running = b.running.saturating_sub(1));
    }
}

fn refused(what: String, code: &'static str, wait: Duration) -> ApiError {
    let e = ApiError::status(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", what);
    ApiError { retry_after: Some(wait), ..e }.code(code)
}

impl Account {
    fn with<T>(&self, f: impl FnOnce(&mut Buckets) -> T) -> T {
        // Numbers cannot be half changed by a panic.
        f(&mut self.buckets.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Begins a request.
    ///
    /// # Errors
    /// 429: too many run, too many came in a minute, or tokens are owed.
    pub fn enter(self: &Arc<Self>, limits: Limits) -> Result<Place, ApiError> {
        self.enter_at(limits, Instant::now()).inspect_err(|_| {
            self.limited.fetch_add(1, Ordering::Relaxed);
        })?;
        self.requests.fetch_add(1, Ordering::Relaxed);
        Ok(Place(Arc::clone(self)))
    }

    fn enter_at(&self, limits: Limits, now: Instant) -> Result<(), ApiError> {
        self.with(|b| {
            if let Some(most) = limits.concurrent
                && b.running >= most
            {
                let what = format!("{most} requests of this key run already, and no more may: wait for one to end");
                return Err(refused(what, "concurrency_limit_exceeded", Duration::from_secs(1)));
            }
            if let Some(most) = limits.tokens_per_minute {
                let bucket = full(&mut b.tokens, most, now);
                if bucket.level < 0.0 {
                    let what = format!("this key has used its {most} tokens of this minute");
                    return Err(refused(what, "rate_limit_exceeded", wait(-bucket.level, most)));
                }
            }
            if let Some(most) = limits.requests_per_minute {
                full(&mut b.requests, most, now).take(1.0, most).map_err(|wait| {
                    refused(format!("this key may make {most} requests a minute"), "rate_limit_exceeded", wait)
                })?;
            }
            b.running += 1;
            Ok(())
        })
    }

    /// Admits a prompt of `n` tokens.
    ///
    /// # Errors
    /// 429: more than is left of this minute's tokens.
    pub fn admit(&self, n: usize, limits: Limits) -> Result<(), ApiError> {
        let result = match limits.tokens_per_minute {
            None => Ok(()),
            Some(most) => {
                self.with(|b| full(&mut b.tokens, most, Instant::now()).take(n as f64, most)).map_err(|wait| {
                    let what =
                        format!("the prompt has {n} tokens, more than is left of this key's {most} tokens a minute");
                    refused(what, "rate_limit_exceeded", wait)
                })
            }
        };
        match &result {
            Ok(()) => self.prompt.fetch_add(n as u64, Ordering::Relaxed),
            Err(_) => self.limited.fetch_add(1, Ordering::Relaxed),
        };
        result
    }

    /// Gives back what a prompt was charged that was not computed.
    pub fn refund(&self, n: usize, limits: Limits) {
        self.prompt.fetch_sub(n as u64, Ordering::Relaxed);
        if let Some(most) = limits.tokens_per_minute {
            self.with(|b| full(&mut b.tokens, most, Instant::now()).level += n as f64);
        }
    }

    /// A token was generated.
    pub fn spend(&self, limits: Limits) {
        self.generated.fetch_add(1, Ordering::Relaxed);
        if let Some(most) = limits.tokens_per_minute {
            self.with(|b| full(&mut b.tokens, most, Instant::now()).level -= 1.0);
        }
    }

    /// Says what is left, as OpenAI does.
    pub fn headers(&self, limits: Limits, headers: &mut HeaderMap) {
        let now = Instant::now();
        let mut put = |what: &str, most: u32, bucket: &Bucket| {
            let left = bucket.level.max(0.0).floor();
            let reset = span(wait(f64::from(most) - bucket.level, most));
            for (name, value) in [("limit", most.to_string()), ("remaining", format!("{left:.0}")), ("reset", reset)] {
                let name = axum::http::HeaderName::try_from(format!("x-ratelimit-{name}-{what}"));
                if let (Ok(name), Ok(value)) = (name, HeaderValue::try_from(value)) {
                    headers.insert(name, value);
                }
            }
        };
        self.with(|b| {
            if let Some(most) = limits.requests_per_minute {
                put("requests", most, full(&mut b.requests, most, now));
            }
            if let Some(most) = limits.tokens_per_minute {
                put("tokens", most, full(&mut b.tokens, most, now));
            }
        });
    }
}

/// The bucket as it is now; one that was never used is full.
fn full(bucket: &mut Option<Bucket>, most: u32, now: Instant) -> &mut Bucket {
    let bucket = bucket.get_or_insert(Bucket { level: f64::from(most), at: now });
    bucket.refill(most, now);
    bucket
}

/// A span of time as Go and OpenAI write it: `6m0s`, `1.5s`, `20ms`.
fn span(d: Duration) -> String {
    let ms = d.as_millis();
    match (ms / 60_000, ms) {
        (0, ms) if ms < 1000 => format!("{ms}ms"),
        (0, ms) => format!("{}s", ms as f64 / 1000.0),
        (minutes, ms) => format!("{minutes}m{}s", (ms % 60_000) / 1000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_minute_allows_what_it_says() {
        let limits = Limits { requests_per_minute: Some(3), ..Limits::default() };
        let (account, now) = (Account::default(), Instant::now());
        for _ in 0..3 {
            account.enter_at(limits, now).unwrap();
        }
        let e = account.enter_at(limits, now).unwrap_err();
        assert_eq!((e.status.as_u16(), e.retry_after.unwrap().as_secs()), (429, 20));
        assert!(account.enter_at(limits, now + Duration::from_secs(19)).is_err());
        account.enter_at(limits, now + Duration::from_secs(20)).unwrap();
        assert!(account.enter_at(limits, now + Duration::from_secs(21)).is_err());
        // A long rest gives a minute's worth, no more.
        let served = (0..10).filter(|_| account.enter_at(limits, now + 60 * MINUTE).is_ok()).count();
        assert_eq!(served, 3);
    }

    #[test]
    fn tokens_may_be_owed() {
        let limits = Limits { tokens_per_minute: Some(600), ..Limits::default() };
        let account = Arc::new(Account::default());
        account.admit(590, limits).unwrap();
        let e = account.admit(100, limits).unwrap_err();
        assert!(e.retry_after.unwrap() > Duration::from_secs(8), "{e:?}");
        (0..110).for_each(|_| account.spend(limits));
        let e = account.enter(limits).unwrap_err();
        assert!(e.retry_after.unwrap() > Duration::from_secs(9), "{e:?}");
        assert_eq!(account.generated.load(Ordering::Relaxed), 110);
        // What is over a minute's allowance is served when nothing else was, and paid for after.
        let big = Arc::new(Account::default());
        big.admit(6000, limits).unwrap();
        assert!(big.enter(limits).unwrap_err().retry_after.unwrap() > 8 * MINUTE);
    }

    #[test]
    fn places_come_back() {
        let limits = Limits { concurrent: Some(1), ..Limits::default() };
        let account = Arc::new(Account::default());
        let place = account.enter(limits).unwrap();
        assert_eq!(account.enter(limits).unwrap_err().code, Some("concurrency_limit_exceeded"));
        drop(place);
        account.enter(limits).unwrap();
    }

    #[test]
    fn headers_say_what_is_left() {
        let limits = Limits { requests_per_minute: Some(60), tokens_per_minute: Some(1000), concurrent: None };
        let account = Arc::new(Account::default());
        _ = account.enter(limits).unwrap();
        account.admit(250, limits).unwrap();
        let mut headers = HeaderMap::new();
        account.headers(limits, &mut headers);
        assert_eq!(headers["x-ratelimit-limit-requests"], "60");
        assert_eq!(headers["x-ratelimit-remaining-requests"], "59");
        assert_eq!(headers["x-ratelimit-limit-tokens"], "1000");
        assert!(headers["x-ratelimit-remaining-tokens"].to_str().unwrap().starts_with("75"));
        assert!(headers["x-ratelimit-reset-tokens"].to_str().unwrap().ends_with('s'));
        assert_eq!(span(Duration::from_millis(20)), "20ms");
        assert_eq!(span(Duration::from_millis(1500)), "1.5s");
        assert_eq!(span(Duration::from_secs(360)), "6m0s");
    }
}
