package app

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"

	"carom/schemas/service"
	"carom/sender/config"
)

// usualUsers are who run-as-root no means where no process-user is named: PowerMTA's user, and ours.
var usualUsers = []string{"pmta", "carom"}

// identity is a user and the groups to run with.
type identity struct {
	name     string
	uid, gid int
	groups   []int
}

// becomeUser gives up root for process-user, for the whole process and for good. Before that it
// gives the node's own folders to the user. Whoever is not root stays who he is.
func becomeUser(c *config.Config, logger *slog.Logger) error {
	a, err := wantedIdentity(c)
	if err != nil || a == nil {
		if err == nil && !c.RunAsRoot && os.Geteuid() == 0 {
			logger.Warn("run-as-root no, but there is no user pmta or carom and no process-user is named: the node runs as root")
		}
		return err
	}
	if os.Geteuid() != 0 {
		if os.Geteuid() == a.uid {
			return nil
		}
		return service.Configf("%s: process-user %s: only root can become another user", c.ProcessUser.Pos, c.ProcessUser)
	}
	for _, dir := range ownFolders(c) {
		if err := giveTo(a, dir); err != nil {
			return fmt.Errorf("process-user %s: %w", a.name, err)
		}
	}
	if err := become(a); err != nil {
		return fmt.Errorf("process-user %s: %w", a.name, err)
	}
	logger.Info("node has given up root", "user", a.name, "uid", a.uid, "gid", a.gid)
	return nil
}

// wantedIdentity returns the user that the configuration wants, nil for none.
func wantedIdentity(c *config.Config) (*identity, error) {
	if p := c.ProcessUser; p.User != "" {
		a, err := lookUp(p)
		if err != nil {
			return nil, service.Configf("%s: process-user %s: %w", p.Pos, p, err)
		}
		return a, nil
	}
	if c.RunAsRoot || os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range usualUsers {
		a, err := lookUp(config.ProcessUser{User: name})
		if _, unknown := errors.AsType[user.UnknownUserError](err); !unknown {
			return a, err
		}
	}
	return nil, nil
}

func lookUp(p config.ProcessUser) (*identity, error) {
	u, err := user.Lookup(p.User)
	if err != nil {
		return nil, err
	}
	a := &identity{name: p.String()}
	var groups []string
	gid := u.Gid
	if p.Group != "" {
		g, err := user.LookupGroup(p.Group)
		if err != nil {
			return nil, err
		}
		gid, groups = g.Gid, []string{g.Gid}
	} else if groups, err = u.GroupIds(); err != nil {
		return nil, err
	}
	if a.uid, err = strconv.Atoi(u.Uid); err == nil {
		a.gid, err = strconv.Atoi(gid)
	}
	for _, g := range groups {
		n, problem := strconv.Atoi(g)
		a.groups, err = append(a.groups, n), errors.Join(err, problem)
	}
	return a, err
}

// become makes a the user of all threads.
func become(a *identity) error {
	if err := syscall.Setgroups(a.groups); err != nil {
		return fmt.Errorf("set groups: %w", err)
	}
	if err := syscall.Setgid(a.gid); err != nil {
		return fmt.Errorf("set group: %w", err)
	}
	if err := syscall.Setuid(a.uid); err != nil {
		return fmt.Errorf("set user: %w", err)
	}
	if a.uid != 0 && syscall.Setuid(0) == nil {
		return errors.New("root could be taken back")
	}
	return nil
}

// ownFolders returns the folders that are the node's alone.
func ownFolders(c *config.Config) []string {
	var dirs []string
	for _, s := range c.Spools {
		dirs = append(dirs, s.Dir)
	}
	return append(dirs, c.EventLog.Dir, c.Feed.Dir)
}

// giveTo makes dir, and what is in it, a's. What is a's already stays as it is: in a folder of his
// the user could put something in the way of root.
func giveTo(a *identity, dir string) error {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || int(st.Uid) == a.uid {
		return nil
	}
	err = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		return os.Lchown(path, a.uid, a.gid)
	})
	if err != nil {
		return err
	}
	return os.Chown(dir, a.uid, a.gid) // last: until then it is nobody else's
}
