package adminapi

import (
	"context"
	"net/http"

	"github.com/wsbouncer/wsbouncer/internal/account"
	"github.com/wsbouncer/wsbouncer/internal/httpx"
	"github.com/wsbouncer/wsbouncer/internal/reason"
)

func user(a account.Account) User {
	return User{
		Name: a.Name, Scopes: append([]string{}, a.Scopes...), Disabled: a.Disabled,
		Created: a.Created.UTC(), PasswordChanged: a.PasswordChanged.UTC(),
	}
}

// users is GET /v1/users, in the order of their names.
func (a *api) users(w http.ResponseWriter, r *http.Request) error {
	if a.Accounts == nil {
		return errNoIssuer
	}
	limit, err := pageLimit(r)
	if err != nil {
		return err
	}
	list, err := a.Accounts.List(r.Context(), r.URL.Query().Get("after"), limit+1)
	if err != nil {
		return err
	}
	p := Page[User]{Items: []User{}}
	if len(list) > limit {
		list = list[:limit]
		p.Next = list[limit-1].Name
	}
	for _, u := range list {
		p.Items = append(p.Items, user(u))
	}
	return writeJSON(w, p)
}

// account finds the account the path names.
func (a *api) account(r *http.Request) (account.Account, error) {
	if a.Accounts == nil {
		return account.Account{}, errNoIssuer
	}
	return a.Accounts.Get(r.Context(), r.PathValue("name"))
}

// user is GET /v1/users/{name}.
func (a *api) user(w http.ResponseWriter, r *http.Request) error {
	u, err := a.account(r)
	if err != nil {
		return err
	}
	out := user(u)
	list, codes, err := a.Accounts.Factors(r.Context(), u.Name)
	if err != nil {
		return err
	}
	out.Factors, out.RecoveryCodes = make([]Factor, len(list)), codes
	for i, f := range list {
		out.Factors[i] = Factor{ID: f.ID, Kind: f.Kind, Created: f.Created, Used: f.Used}
	}
	return writeJSON(w, out)
}

// resetFactors is DELETE /v1/users/{name}/factors. Sessions that rested on them end.
func (a *api) resetFactors(w http.ResponseWriter, r *http.Request) error {
	return a.throwOut(w, r, a.Accounts.ResetFactors)
}

// addUser is POST /v1/users.
func (a *api) addUser(w http.ResponseWriter, r *http.Request) error {
	if a.Accounts == nil {
		return errNoIssuer
	}
	var in AddUserRequest
	if err := readJSON(w, r, &in); err != nil {
		return err
	}
	u, err := a.Accounts.Add(r.Context(), in.Name, in.Password, in.Scopes, actor)
	if err != nil {
		return err
	}
	return httpx.WriteJSON(w, http.StatusCreated, user(u))
}

// setPassword is POST /v1/users/{name}/password. Whoever knew the old one is out.
func (a *api) setPassword(w http.ResponseWriter, r *http.Request) error {
	u, err := a.account(r)
	if err != nil {
		return err
	}
	var in passwordRequest
	if err := readJSON(w, r, &in); err != nil {
		return err
	}
	err = a.Accounts.SetPassword(r.Context(), u.Name, in.Password, actor, func(ctx context.Context) error {
		_, err := a.Sessions.EndAll(ctx, u.Subject, reason.SubjectRevoked, actor)
		return err
	})
	return noContent(w, err)
}

// disableUser is POST /v1/users/{name}/disable.
func (a *api) disableUser(w http.ResponseWriter, r *http.Request) error {
	return a.throwOut(w, r, a.Accounts.Disable)
}

// removeUser is DELETE /v1/users/{name}.
func (a *api) removeUser(w http.ResponseWriter, r *http.Request) error {
	return a.throwOut(w, r, a.Accounts.Remove)
}

// throwOut changes an account and ends all that its subject has, or neither.
func (a *api) throwOut(w http.ResponseWriter, r *http.Request, change func(ctx context.Context, name, actor string) error) error {
	u, err := a.account(r)
	if err != nil {
		return err
	}
	return noContent(w, a.Tx(r.Context(), func(ctx context.Context) error {
		if err := change(ctx, u.Name, actor); err != nil {
			return err
		}
		_, err := a.Sessions.EndAll(ctx, u.Subject, reason.SubjectRevoked, actor)
		return err
	}))
}

// enableUser is POST /v1/users/{name}/enable.
func (a *api) enableUser(w http.ResponseWriter, r *http.Request) error {
	u, err := a.account(r)
	if err != nil {
		return err
	}
	return noContent(w, a.Accounts.Enable(r.Context(), u.Name, actor))
}

// grantUser is POST /v1/users/{name}/grant.
func (a *api) grantUser(w http.ResponseWriter, r *http.Request) error {
	u, err := a.account(r)
	if err != nil {
		return err
	}
	var in GrantRequest
	if err := readJSON(w, r, &in); err != nil {
		return err
	}
	if len(in.Add)+len(in.Remove) == 0 {
		return invalid("add or remove says which scopes.")
	}
	err = a.Tx(r.Context(), func(ctx context.Context) (err error) {
		if len(in.Add) > 0 {
			if u, err = a.Accounts.Grant(ctx, u.Name, in.Add, actor); err != nil {
				return err
			}
		}
		if len(in.Remove) > 0 {
			u, err = a.Accounts.Ungrant(ctx, u.Name, in.Remove, actor)
		}
		return err
	})
	if err != nil {
		return err
	}
	return writeJSON(w, user(u))
}

func noContent(w http.ResponseWriter, err error) error {
	if err == nil {
		w.WriteHeader(http.StatusNoContent)
	}
	return err
}
