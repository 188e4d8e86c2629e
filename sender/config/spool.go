package config

import (
	"fmt"
	"math"
	"strings"
)

// Spool is a folder that holds accepted mail.
type Spool struct {
	Pos          Pos
	Dir          string
	Priority     int  // 1 to 100; the highest that has room takes new mail, equal ones in turn
	DeliverOnly  bool // takes no new mail
	MinFreeSpace Size // below it new mail is refused here
}

// minFreeSpaceUnset stands for the global spool-min-free-space until complete.
const minFreeSpaceUnset = -1

func newSpool(pos Pos, dir string) Spool {
	return Spool{Pos: pos, Dir: dir, Priority: 1, MinFreeSpace: minFreeSpaceUnset}
}

// String returns the spool's folder.
func (s Spool) String() string { return s.Dir }

var spoolScope = newScope("spool",
	one("priority", number(1, 100), func(s *Spool) *int { return &s.Priority }),
	one("deliver-only", boolean, func(s *Spool) *bool { return &s.DeliverOnly }),
	one("min-free-space", sizeLimit, func(s *Spool) *Size { return &s.MinFreeSpace }),
).withDefaults(func() Spool { return Spool{Priority: 1} })

// spoolDirectory parses the old directive that <spool DIR> replaced.
func spoolDirectory(v *value) (Spool, error) {
	dir, err := filePath(v)
	return newSpool(v.pos, dir), err
}

// megabytes parses a size whose bare number counts megabytes, as that of spool-min-free-space.
var megabytes = scalar(wantSize+", a bare number counts megabytes", func(s string) (Size, error) {
	if n, err := parseNumber(s); err == nil {
		if n > math.MaxInt64>>20 {
			return 0, fmt.Errorf("bad size %q; %s", s, wantSize)
		}
		return Size(n) << 20, nil
	}
	if strings.EqualFold(s, "unlimited") {
		return 0, nil
	}
	return ParseSize(s)
})

// completeSpools gives the spools without a min-free-space of their own the global one.
func (c *Config) completeSpools() {
	for i := range c.Spools {
		if s := &c.Spools[i]; s.MinFreeSpace == minFreeSpaceUnset {
			s.MinFreeSpace = c.spoolMinFreeSpace
		}
	}
}
