package config

import "testing"

// TestPlaces: a file of PowerMTA names no event log; it lies in the spool.
func TestPlaces(t *testing.T) {
	for _, tc := range []struct{ text, spool, events, feed, admin string }{
		{"host-name mail.example.com\n", "/var/spool/carom", "/var/spool/carom/events", "/var/spool/carom/feed", "/var/spool/carom/admin.sock"},
		{
			"host-name mail.example.com\nspool /var/spool/pmta\n<feed /srv/feed>\n</feed>\n",
			"/var/spool/pmta", "/var/spool/pmta/events", "/srv/feed", "/var/spool/pmta/admin.sock",
		},
	} {
		c, _, err := Parse("/etc/pmta/config", []byte(tc.text))
		if err != nil {
			t.Fatal(err)
		}
		if c.Spools[0].Dir != tc.spool || c.EventLog.Dir != tc.events || c.Feed.Dir != tc.feed || c.Admin.Path != tc.admin {
			t.Errorf("%q: spool %s, event log %s, feed %s, admin socket %s; want %+v", tc.text, c.Spools[0].Dir, c.EventLog.Dir, c.Feed.Dir, c.Admin.Path, tc)
		}
		if u := c.EventStream.URL; u == nil || u.Host != "127.0.0.1:8123" {
			t.Errorf("%q: events go to %v", tc.text, u)
		}
	}
}
