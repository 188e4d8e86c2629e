package deliver

import (
	"strings"

	"carom/sender/config"
	"carom/sender/throttle"
)

// limitsOfQueue returns what the settings of a queue say to the throttle, in normal mode and in
// backoff mode. The adaptive ceilings are those of normal mode alone.
func limitsOfQueue(c *config.Config, domain, vmta string, s *config.Settings) (normal, backoff *throttle.QueueLimits) {
	origin := func(directive string) string { return settingOrigin(c, domain, vmta, directive) }
	ranges := s.SourceLimits()
	sources := make([]throttle.SourceIPLimits, 0, len(ranges))
	for _, l := range ranges {
		sources = append(sources, throttle.SourceIPLimits{
			Prefix: l.Prefix, Connections: count(l.MaxSMTPOut),
			Rate: throttleRate(l.MaxMsgRate), ConnectRate: throttleRate(l.MaxConnectRate), DataRate: throttleDataRate(l.MaxDataVolumeRate),
		})
	}
	normal = &throttle.QueueLimits{
		Rate: throttleRate(s.MaxMsgRate), ConnectRate: throttleRate(s.MaxConnectRate), DataRate: throttleDataRate(s.MaxDataVolumeRate),
		Connections: count(s.MaxSMTPOut), MessagesPerConnection: count(s.MaxMsgPerConnection),
		AdaptiveRate: throttleRate(s.AdaptiveMaxMsgRate.Rate), AdaptiveConnections: count(s.AdaptiveMaxSMTPOut),
		AdaptiveMessagesPerConnection: count(s.AdaptiveMaxMsgPerConnection),
		RampUp:                        s.SMTPOutRampupInterval, SourceIP: sources, Origin: origin, BackoffByConfig: s.BackoffAuthority == config.AuthorityConfig,
	}
	backoff = &throttle.QueueLimits{
		Rate:        throttleRate(s.BackoffMaxMsgRate.Or(s.MaxMsgRate)),
		ConnectRate: throttleRate(s.BackoffMaxConnectRate.Or(s.MaxConnectRate)),
		DataRate:    throttleDataRate(s.BackoffMaxDataVolumeRate.Or(s.MaxDataVolumeRate)),
		Connections: count(s.BackoffMaxSMTPOut), MessagesPerConnection: count(s.MaxMsgPerConnection),
		RampUp: s.SMTPOutRampupInterval, SourceIP: sources, Backoff: true, Origin: origin, BackoffByConfig: s.BackoffAuthority == config.AuthorityConfig,
	}
	if s.BackoffAuthority == config.AuthorityLoop {
		backoff.Normal = normal
	}
	return normal, backoff
}

// settingOrigin says where a directive of a queue was written. One of backoff mode that was not is
// that of normal mode.
func settingOrigin(c *config.Config, domain, vmta, directive string) string {
	pos := c.Origin(domain, vmta, directive)
	if normal, ok := strings.CutPrefix(directive, "backoff-"); ok && pos == (config.Pos{}) {
		pos = c.Origin(domain, vmta, normal)
	}
	return pos.String()
}

// limitsOfVMTA returns what the sections of a virtual MTA and of its pools say to the throttle.
func limitsOfVMTA(c *config.Config, m *config.VMTA) *throttle.VMTALimits {
	limits := &throttle.VMTALimits{
		Rate: throttleRate(m.MaxSMTPMsgRate), Connections: m.MaxSMTPOut, DataRate: throttleDataRate(m.MaxSMTPDataVolumeRate),
		WarmupStart: m.WarmupStart, Origin: func(directive string) string { return m.Origin(directive).String() },
	}
	for _, name := range m.Pools {
		p, ok := c.Pool(name)
		if !ok {
			continue
		}
		pool := &throttle.PoolLimits{
			Name: p.Name, Rate: throttleRate(p.MaxSMTPMsgRate), Connections: p.MaxSMTPOut, DataRate: throttleDataRate(p.MaxSMTPDataVolumeRate),
			Origin: func(directive string) string { return p.Origin(directive).String() },
		}
		if !pool.Unlimited() {
			limits.Pools = append(limits.Pools, pool)
		}
	}
	return limits
}

// PeerLimits returns mx-connection-limit and ip-connection-limit as the throttle takes them.
func PeerLimits(c *config.Config) (hosts, addrs []throttle.PeerLimit) {
	for _, l := range c.MXConnectionLimits {
		hosts = append(hosts, throttle.PeerLimit{
			Connections: l.Max, Host: l.Pattern.Match, Text: "mx-connection-limit " + l.String(), Origin: l.Pos.String(),
		})
	}
	for _, l := range c.IPConnectionLimits {
		addrs = append(addrs, throttle.PeerLimit{
			Connections: l.Max, Prefix: l.Prefix, Text: "ip-connection-limit " + l.String(), Origin: l.Pos.String(),
		})
	}
	return hosts, addrs
}

func throttleRate(r config.Rate) throttle.Rate {
	return throttle.Rate{Count: int64(r.Count), Per: r.Per}
}

func throttleDataRate(r config.DataRate) throttle.Rate {
	return throttle.Rate{Count: int64(r.Bytes), Per: r.Per}
}

// count converts a number of the configuration, which bounds it.
func count(n int) uint32 {
	return uint32(n) //nolint:gosec // see above
}
