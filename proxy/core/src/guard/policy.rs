//! How are calls to a service treated, with every default filled in?

use std::time::Duration;

use isthmus_proto::bounds::traffic::STATUSES_MAX;
pub use isthmus_proto::bounds::traffic::{ATTEMPTS_MAX, PENALTY_MS_MAX};
use isthmus_proto::resource;
use smallvec::SmallVec;

use crate::balance::{BalancePolicy, OutlierPolicy};
use crate::snapshot::Rejected;

/// Longest duration that a policy may name.
pub const DURATION_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// All of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TrafficPolicy {
    /// How long.
    pub timeouts: Timeouts,
    /// How often again.
    pub retries: Retries,
    /// When an endpoint is ejected.
    pub outlier: OutlierPolicy,
    /// How much.
    pub limits: Limits,
    /// Which endpoint.
    pub balance: BalancePolicy,
}

/// How long calls may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// To establish a connection or tunnel, each try.
    pub connect: Duration,
    /// A whole HTTP request, all tries together. None: as long as it takes.
    pub request: Option<Duration>,
    /// One try. None: as long as it takes.
    pub per_try: Option<Duration>,
    /// An HTTP stream without a byte either way.
    pub idle_http: Duration,
    /// A TCP connection without a byte either way.
    pub idle_tcp: Duration,
    /// A TCP connection, an upgraded stream or a request, however much still moves. None: as long
    /// as it takes.
    pub stream: Option<Duration>,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(1),
            request: None,
            per_try: None,
            idle_http: Duration::from_secs(5 * 60),
            idle_tcp: Duration::from_secs(60 * 60),
            stream: None,
        }
    }
}

/// How often calls are tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retries {
    /// Additional tries of one request. 0: none.
    pub attempts: u32,
    /// Retries as a share of first tries, in percent. 0: none.
    pub budget_percent: u32,
    /// Status codes of an idempotent request's answer that lead to a retry; sorted.
    pub statuses: SmallVec<[u16; 4]>,
}

impl Default for Retries {
    fn default() -> Self {
        Self {
            attempts: 2,
            budget_percent: 20,
            statuses: SmallVec::from_slice(&[502, 503, 504]),
        }
    }
}

/// How much may be under way, in one proxy for one service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Requests (HTTP) or connections (TCP) in flight.
    pub max_in_flight: u32,
    /// Waiting for a connection.
    pub max_pending: u32,
    /// Retries in flight, beside the budget.
    pub max_retries: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_in_flight: 1_024,
            max_pending: 1_024,
            max_retries: 64,
        }
    }
}

impl TrafficPolicy {
    /// Checks a policy and fills the defaults in. None: all defaults.
    ///
    /// # Errors
    /// A value that can't be meant: a duration below 0 or above 24 h, a percentage above 100, ...
    pub fn compile(
        from: Option<&resource::TrafficPolicy>,
        service_name: &str,
    ) -> Result<Self, Rejected> {
        let Some(from) = from else {
            return Ok(Self::default());
        };
        check(from).map_err(|why| Rejected {
            name: service_name.to_owned(),
            why: format!("traffic.{why}"),
        })
    }
}

fn check(from: &resource::TrafficPolicy) -> Result<TrafficPolicy, String> {
    let outlier = from.outlier.unwrap_or_default();
    Ok(TrafficPolicy {
        timeouts: from
            .timeouts
            .as_ref()
            .map_or(Ok(Timeouts::default()), timeouts)?,
        retries: from
            .retries
            .as_ref()
            .map_or(Ok(Retries::default()), retries)?,
        outlier: ejection(&outlier)?,
        limits: from.limits.as_ref().map(limits).unwrap_or_default(),
        balance: balancing(&from.balancing.unwrap_or_default(), &outlier)?,
    })
}

fn timeouts(from: &resource::Timeouts) -> Result<Timeouts, String> {
    let default = Timeouts::default();
    let idle = duration("timeouts.idle", from.idle.as_ref())?;
    Ok(Timeouts {
        connect: duration("timeouts.connect", from.connect.as_ref())?.unwrap_or(default.connect),
        request: duration("timeouts.request", from.request.as_ref())?,
        per_try: duration("timeouts.try", from.r#try.as_ref())?,
        idle_http: idle.unwrap_or(default.idle_http),
        idle_tcp: idle.unwrap_or(default.idle_tcp),
        stream: duration("timeouts.stream", from.stream.as_ref())?,
    })
}

fn retries(from: &resource::Retries) -> Result<Retries, String> {
    let default = Retries::default();
    let attempts = from.attempts.unwrap_or(default.attempts);
    if attempts > ATTEMPTS_MAX {
        return Err(format!(
            "retries.attempts: {attempts} is above {ATTEMPTS_MAX}"
        ));
    }
    if from.statuses.len() > STATUSES_MAX {
        return Err(format!("retries.statuses: more than {STATUSES_MAX}"));
    }
    let mut statuses = from
        .statuses
        .iter()
        .map(|s| status(*s))
        .collect::<Result<SmallVec<_>, _>>()?;
    statuses.sort_unstable();
    statuses.dedup();
    Ok(Retries {
        attempts,
        budget_percent: percent("retries.budget_percent", from.budget_percent)?
            .unwrap_or(default.budget_percent),
        statuses: if statuses.is_empty() {
            default.statuses
        } else {
            statuses
        },
    })
}

fn status(code: u32) -> Result<u16, String> {
    u16::try_from(code)
        .ok()
        .filter(|code| (400..=599).contains(code))
        .ok_or_else(|| format!("retries.statuses: {code} is not 400 to 599"))
}

fn ejection(from: &resource::OutlierDetection) -> Result<OutlierPolicy, String> {
    let default = OutlierPolicy::default();
    let base = duration("outlier.base_ejection", from.base_ejection.as_ref())?;
    let max = duration("outlier.max_ejection", from.max_ejection.as_ref())?;
    if let (Some(base), Some(max)) = (base, max)
        && base > max
    {
        return Err(format!(
            "outlier.base_ejection: {base:?} is above max_ejection {max:?}"
        ));
    }
    // One that is given moves the default of the other, if that would contradict it.
    let base_ejection = base.unwrap_or(default.base_ejection.min(max.unwrap_or(DURATION_MAX)));
    Ok(OutlierPolicy {
        consecutive_failures: from
            .consecutive_failures
            .unwrap_or(default.consecutive_failures),
        base_ejection,
        max_ejection: max.unwrap_or(default.max_ejection.max(base_ejection)),
    })
}

fn limits(from: &resource::Limits) -> Limits {
    let default = Limits::default();
    Limits {
        max_in_flight: from.max_in_flight.unwrap_or(default.max_in_flight),
        max_pending: from.max_pending.unwrap_or(default.max_pending),
        max_retries: from.max_retries.unwrap_or(default.max_retries),
    }
}

fn balancing(
    from: &resource::Balancing,
    outlier: &resource::OutlierDetection,
) -> Result<BalancePolicy, String> {
    let default = BalancePolicy::default();
    let penalty = |field, value: Option<u32>, default| match value {
        Some(ms) if ms > PENALTY_MS_MAX => {
            Err(format!("balancing.{field}: {ms} is above {PENALTY_MS_MAX}"))
        }
        Some(ms) => Ok(Duration::from_millis(u64::from(ms))),
        None => Ok(default),
    };
    Ok(BalancePolicy {
        zone_penalty: penalty(
            "zone_penalty_ms",
            from.zone_penalty_ms,
            default.zone_penalty,
        )?,
        cluster_penalty: penalty(
            "cluster_penalty_ms",
            from.cluster_penalty_ms,
            default.cluster_penalty,
        )?,
        max_ejected_percent: percent("outlier.max_ejected_percent", outlier.max_ejected_percent)?
            .unwrap_or(default.max_ejected_percent),
        client_affinity: from
            .client_affinity_seconds
            .filter(|seconds| *seconds > 0)
            .map(|seconds| Duration::from_secs(u64::from(seconds))),
    })
}

fn percent(field: &str, value: Option<u32>) -> Result<Option<u32>, String> {
    match value {
        Some(percent) if percent > 100 => Err(format!("{field}: {percent} is above 100")),
        other => Ok(other),
    }
}

/// None: absent or zero, which mean the default.
fn duration(field: &str, from: Option<&prost_types::Duration>) -> Result<Option<Duration>, String> {
    let duration = from.map(|from| bounded(field, from)).transpose()?;
    Ok(duration.filter(|d| !d.is_zero()))
}

/// A duration from zero to [`DURATION_MAX`]: beyond, sums with the time of day are not safe.
pub(crate) fn bounded(field: &str, from: &prost_types::Duration) -> Result<Duration, String> {
    let bad = || {
        format!(
            "{field}: {}.{:09} s is not 0 s to 24 h",
            from.seconds, from.nanos
        )
    };
    let seconds = u64::try_from(from.seconds).map_err(|_| bad())?;
    // google.protobuf.Duration: nanos are below a second, and of the seconds' sign.
    let nanos = u32::try_from(from.nanos)
        .ok()
        .filter(|n| *n < 1_000_000_000)
        .ok_or_else(bad)?;
    if seconds > DURATION_MAX.as_secs() {
        return Err(bad());
    }
    let duration = Duration::new(seconds, nanos);
    if duration > DURATION_MAX {
        return Err(bad());
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Break = fn(&mut resource::TrafficPolicy);

    fn seconds(seconds: i64) -> Option<prost_types::Duration> {
        Some(prost_types::Duration { seconds, nanos: 0 })
    }

    fn compile(change: Break) -> Result<TrafficPolicy, Rejected> {
        let mut from = resource::TrafficPolicy::default();
        change(&mut from);
        TrafficPolicy::compile(Some(&from), "shop/cart.shop.svc.cluster.local")
    }

    #[test]
    fn absent_and_zero_are_the_defaults() {
        let default = TrafficPolicy::default();
        assert_eq!(TrafficPolicy::compile(None, "x"), Ok(default.clone()));
        assert_eq!(compile(|_| ()), Ok(default.clone()));
        let zeros: Break = |p| {
            p.timeouts = Some(resource::Timeouts {
                connect: seconds(0),
                request: seconds(0),
                r#try: seconds(0),
                idle: seconds(0),
                stream: seconds(0),
            });
            p.outlier = Some(resource::OutlierDetection {
                base_ejection: seconds(0),
                max_ejection: seconds(0),
                ..Default::default()
            });
            p.retries = Some(resource::Retries::default());
            p.limits = Some(resource::Limits::default());
            p.balancing = Some(resource::Balancing::default());
        };
        assert_eq!(compile(zeros), Ok(default.clone()));
        assert_eq!(default.timeouts.connect, Duration::from_secs(1));
        assert_eq!(default.outlier.consecutive_failures, 5);
        assert_eq!(default.balance.max_ejected_percent, 50);
    }

    #[test]
    fn values_are_taken() {
        let policy = compile(|p| {
            p.retries = Some(resource::Retries {
                attempts: Some(0),
                budget_percent: Some(0),
                statuses: vec![503, 429, 503],
            });
            p.timeouts = Some(resource::Timeouts {
                idle: seconds(7),
                stream: seconds(8),
                ..Default::default()
            });
            p.outlier = Some(resource::OutlierDetection {
                consecutive_failures: Some(0),
                max_ejected_percent: Some(0),
                base_ejection: seconds(600),
                max_ejection: None,
            });
        })
        .unwrap();
        assert_eq!(
            (policy.retries.attempts, policy.retries.budget_percent),
            (0, 0)
        );
        assert_eq!(policy.retries.statuses.as_slice(), &[429, 503]);
        assert_eq!(policy.timeouts.idle_http, policy.timeouts.idle_tcp);
        assert_eq!(policy.timeouts.stream, Some(Duration::from_secs(8)));
        assert_eq!(policy.outlier.max_ejection, Duration::from_secs(600));
        assert_eq!(policy.balance.max_ejected_percent, 0);
    }

    #[test]
    fn what_cannot_be_meant_is_rejected_by_field() {
        fn timeouts(p: &mut resource::TrafficPolicy) -> &mut resource::Timeouts {
            p.timeouts.get_or_insert_default()
        }
        let breaks: &[(&str, Break)] = &[
            ("timeouts.connect", |p| timeouts(p).connect = seconds(-1)),
            ("timeouts.request", |p| {
                timeouts(p).request = seconds(24 * 3600 + 1)
            }),
            ("timeouts.try", |p| {
                timeouts(p).r#try = Some(prost_types::Duration {
                    seconds: 1,
                    nanos: -1,
                });
            }),
            ("timeouts.idle", |p| {
                timeouts(p).idle = Some(prost_types::Duration {
                    seconds: 86_400,
                    nanos: 1,
                });
            }),
            ("timeouts.stream", |p| timeouts(p).stream = seconds(-1)),
            ("retries.attempts", |p| {
                p.retries.get_or_insert_default().attempts = Some(11)
            }),
            ("retries.budget_percent", |p| {
                p.retries.get_or_insert_default().budget_percent = Some(101);
            }),
            ("retries.statuses", |p| {
                p.retries.get_or_insert_default().statuses = vec![200]
            }),
            ("outlier.max_ejected_percent", |p| {
                p.outlier.get_or_insert_default().max_ejected_percent = Some(101);
            }),
            ("outlier.base_ejection", |p| {
                let outlier = p.outlier.get_or_insert_default();
                (outlier.base_ejection, outlier.max_ejection) = (seconds(9), seconds(8));
            }),
            ("balancing.cluster_penalty_ms", |p| {
                p.balancing.get_or_insert_default().cluster_penalty_ms = Some(60_001);
            }),
        ];
        for (field, break_it) in breaks {
            let rejected = compile(*break_it).unwrap_err();
            assert!(
                rejected.why.starts_with(&format!("traffic.{field}:")),
                "{rejected}"
            );
            assert_eq!(rejected.name, "shop/cart.shop.svc.cluster.local");
        }
    }

    proptest! {
        #[test]
        fn no_duration_panics(seconds: i64, nanos: i32) {
            let from = prost_types::Duration { seconds, nanos };
            if let Ok(Some(d)) = duration("x", Some(&from)) {
                prop_assert!(d <= DURATION_MAX);
            }
        }
    }
}
