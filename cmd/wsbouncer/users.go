package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/wsbouncer/wsbouncer/internal/adminapi"
)

type userCmd struct {
	Add     userAddCmd     `cmd:"" help:"Add an account. Works without a running server."`
	List    userListCmd    `cmd:"" help:"List accounts. Works without a running server."`
	Show    userShowCmd    `cmd:"" help:"Show an account."`
	Passwd  userPasswdCmd  `cmd:"" help:"Set a password; ends the account's sessions. Works without a running server."`
	Disable userDisableCmd `cmd:"" help:"Keep an account out; ends its sessions and connections."`
	Enable  userEnableCmd  `cmd:"" help:"Let a disabled account in again."`
	Grant   userGrantCmd   `cmd:"" help:"Give or take scopes."`
	Remove  userRemoveCmd  `cmd:"" help:"Remove an account; ends its sessions and connections."`

	ResetFactors userResetFactorsCmd `cmd:"" help:"Take all second factors from an account; ends its sessions and connections."`
}

type userAddCmd struct {
	adminFlags
	Name          string `arg:"" help:"The name people log in with."`
	PasswordStdin bool   `help:"Read the password from standard input."`
	Scope         string `help:"Scopes, separated by spaces."`
}

// Run adds an account.
func (c *userAddCmd) Run(ctx context.Context, s *streams) error {
	password, err := s.secret("password", c.PasswordStdin)
	if err != nil {
		return err
	}
	return c.withOffline(ctx, s, func(a *adminapi.Client) error {
		return callWith(c.adminFlags, s, a, func(a *adminapi.Client) (adminapi.User, error) {
			return a.AddUser(ctx, adminapi.AddUserRequest{Name: c.Name, Password: password, Scopes: strings.Fields(c.Scope)})
		}, func(u adminapi.User) string { return "added " + describeUser(u) })
	})
}

func describeUser(u adminapi.User) string {
	out := u.Name
	if len(u.Scopes) > 0 {
		out += ", scope " + strings.Join(u.Scopes, " ")
	} else {
		out += ", no scope"
	}
	if u.Disabled {
		out += ", disabled"
	}
	for _, f := range u.Factors {
		out += ", " + f.Kind + " since " + when(f.Created)
	}
	if len(u.Factors) > 0 {
		out += fmt.Sprintf(", %d recovery codes left", u.RecoveryCodes)
	}
	return out
}

type userListCmd struct{ adminFlags }

// Run lists accounts.
func (c *userListCmd) Run(ctx context.Context, s *streams) error {
	return c.withOffline(ctx, s, func(a *adminapi.Client) error {
		return listWith(c.adminFlags, s, a,
			func(a *adminapi.Client, after string) (adminapi.Page[adminapi.User], error) {
				return a.Users(ctx, after)
			},
			"NAME SCOPES DISABLED CREATED PASSWORD-CHANGED", func(u adminapi.User) []string {
				return []string{u.Name, strings.Join(u.Scopes, " "), yesNo(u.Disabled), when(u.Created), when(u.PasswordChanged)}
			})
	})
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

type userNameCmd struct {
	adminFlags
	Name string `arg:"" help:"The account."`
}

type userShowCmd struct{ userNameCmd }

// Run shows an account.
func (c *userShowCmd) Run(ctx context.Context, s *streams) error {
	return call(c.adminFlags, s, func(a *adminapi.Client) (adminapi.User, error) { return a.User(ctx, c.Name) }, describeUser)
}

type userPasswdCmd struct {
	userNameCmd
	PasswordStdin bool `help:"Read the password from standard input."`
}

// Run sets a password.
func (c *userPasswdCmd) Run(ctx context.Context, s *streams) error {
	password, err := s.secret("password", c.PasswordStdin)
	if err != nil {
		return err
	}
	return c.withOffline(ctx, s, func(a *adminapi.Client) error {
		return callWith(c.adminFlags, s, a,
			func(a *adminapi.Client) (done, error) { return done{true}, a.SetPassword(ctx, c.Name, password) },
			func(done) string { return "password of " + c.Name + " set; its sessions ended" })
	})
}

type userDisableCmd struct{ userNameCmd }

// Run disables an account.
func (c *userDisableCmd) Run(ctx context.Context, s *streams) error {
	return call(c.adminFlags, s, func(a *adminapi.Client) (done, error) { return done{true}, a.DisableUser(ctx, c.Name) },
		func(done) string { return "disabled " + c.Name + "; its sessions ended" })
}

type userEnableCmd struct{ userNameCmd }

// Run enables an account.
func (c *userEnableCmd) Run(ctx context.Context, s *streams) error {
	return call(c.adminFlags, s, func(a *adminapi.Client) (done, error) { return done{true}, a.EnableUser(ctx, c.Name) },
		func(done) string { return "enabled " + c.Name })
}

type userGrantCmd struct {
	userNameCmd
	Scope  string `help:"Scopes to give, separated by spaces."`
	Remove string `help:"Scopes to take away, separated by spaces."`
}

// Run changes scopes.
func (c *userGrantCmd) Run(ctx context.Context, s *streams) error {
	in := adminapi.GrantRequest{Add: strings.Fields(c.Scope), Remove: strings.Fields(c.Remove)}
	if len(in.Add)+len(in.Remove) == 0 {
		return usageError("name scopes with --scope or --remove")
	}
	return call(c.adminFlags, s, func(a *adminapi.Client) (adminapi.User, error) { return a.GrantUser(ctx, c.Name, in) }, describeUser)
}

type userRemoveCmd struct{ userNameCmd }

// Run removes an account.
func (c *userRemoveCmd) Run(ctx context.Context, s *streams) error {
	return call(c.adminFlags, s, func(a *adminapi.Client) (done, error) { return done{true}, a.RemoveUser(ctx, c.Name) },
		func(done) string { return "removed " + c.Name + "; its sessions ended" })
}

type userResetFactorsCmd struct{ userNameCmd }

// Run removes second factors.
func (c *userResetFactorsCmd) Run(ctx context.Context, s *streams) error {
	return call(c.adminFlags, s, func(a *adminapi.Client) (done, error) { return done{true}, a.ResetFactors(ctx, c.Name) },
		func(done) string { return c.Name + " has no second factor any more; its sessions ended" })
}
