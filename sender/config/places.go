package config

import "net/url"

// The places that carom needs and PowerMTA's files do not name.
const (
	defaultSpoolDir = "/var/spool/carom"
	defaultStream   = "http://127.0.0.1:8123" // where carom up has the embedded engine
)

// finishPlaces names what a file of PowerMTA leaves out, so that it starts as it is: the event log,
// the feed and the admin socket lie beside the first spool.
func (c *Config) finishPlaces() {
	if len(c.Spools) == 0 {
		c.Spools = []Spool{newSpool(Pos{}, defaultSpoolDir)}
	}
	beside := c.Spools[0].Dir
	if c.EventLog == nil {
		e := defaultEventLog()
		e.Dir = beside + "-events"
		c.EventLog = &e
	}
	if c.Feed == nil {
		f := defaultFeed()
		f.Dir = beside + "-feed"
		c.Feed = &f
	}
	if c.Admin == nil {
		c.Admin = &Admin{Path: beside + "-admin.sock"}
	}
	if c.EventStream == nil {
		s := defaultEventStream()
		s.URL, _ = url.Parse(defaultStream) // a constant, which a test parses
		c.EventStream = &s
	}
}
