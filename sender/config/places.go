package config

import (
	"net/url"
	"path/filepath"
)

// The places that carom needs and PowerMTA's files do not name.
const (
	defaultSpoolDir = "/var/spool/carom"
	defaultStream   = "http://127.0.0.1:8123" // where carom up has the embedded engine
)

// finishPlaces names what a file of PowerMTA leaves out, so that it starts as it is: the event log,
// the feed and the admin socket lie in the first spool, the one folder that is surely the node's.
func (c *Config) finishPlaces() {
	if len(c.Spools) == 0 {
		c.Spools = []Spool{newSpool(Pos{}, defaultSpoolDir)}
	}
	dir := c.Spools[0].Dir
	if c.EventLog == nil {
		e := defaultEventLog()
		e.Dir = filepath.Join(dir, "events")
		c.EventLog = &e
	}
	if c.Feed == nil {
		f := defaultFeed()
		f.Dir = filepath.Join(dir, "feed")
		c.Feed = &f
	}
	if c.Admin == nil {
		c.Admin = &Admin{Path: filepath.Join(dir, "admin.sock")}
	}
	if c.EventStream == nil {
		s := defaultEventStream()
		s.URL, _ = url.Parse(defaultStream) // a constant, which a test parses
		c.EventStream = &s
	}
}
