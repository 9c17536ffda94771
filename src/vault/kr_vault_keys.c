/*
 * kr_vault_keys.c
 *	  Data keys: finding the one that is due, making it.
 *
 * Root key (kr_keyring.c) -> one random data key for each tenant, and one for
 * what belongs to none -> secrets. A data key is made when it is first needed;
 * the unique index on the active key decides between backends that need it at
 * the same time. Who seals a secret holds a lock on the key's row to the end
 * of its transaction: who retires the key waits, and finds what was sealed.
 */
#include "postgres.h"

#include "miscadmin.h"

#include "kr_error.h"
#include "kr_vault_int.h"

static const KrKeyringState *keyring_for_sealing(void);
static char *missing_root_key(void);
static char *root_keys_in_place(const KrKeyringState *keyring);

void
kr_vault_key_for_sealing(const pg_uuid_t *tenant_id, KrDataKey *key)
{
	(void) keyring_for_sealing();

	if (!kr_rows_active_key(tenant_id, key))
	{
		kr_vault_new_key(tenant_id, KR_KEY_SEAL, key);
		kr_rows_insert_key(key);
		if (!kr_rows_active_key(tenant_id, key))
			elog(ERROR, "the new data key is not there");
	}
	if (!kr_keyring_has(key->root_key_id))
		kr_vault_raise_sealed(key->root_key_id);
}

void
kr_vault_new_key(const pg_uuid_t *tenant_id, KrKeyPurpose purpose, KrDataKey *key)
{
	char	   *missing;

	(void) keyring_for_sealing();
	missing = missing_root_key();

	/* A wrong root key in place must not become a second one. */
	if (missing != NULL)
		kr_vault_raise_sealed(missing);

	memset(key, 0, sizeof(*key));
	kr_vault_new_id(&key->id);
	key->purpose = purpose;
	key->has_tenant = tenant_id != NULL;
	if (key->has_tenant)
		key->tenant_id = *tenant_id;
	kr_keyring_new_key(key);
}

void
kr_vault_key_by_id(const pg_uuid_t *key_id, KrDataKey *key)
{
	(void) keyring_for_sealing();

	if (!kr_rows_active_key_by_id(key_id, key))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("there is no active key %s", kr_vault_uuid_text(key_id)),
				 errhint("Leave the key out to use the one that is due.")));
	if (!kr_keyring_has(key->root_key_id))
		kr_vault_raise_sealed(key->root_key_id);
}

/*
 * A key file is made where no setting names a source, and only as long
 * as nothing is wrapped by a root key that got lost.
 */
static const KrKeyringState *
keyring_for_sealing(void)
{
	const KrKeyringState *keyring = kr_keyring_load();

	if (!keyring->loaded && keyring->can_create)
	{
		char	   *lost = missing_root_key();

		if (lost != NULL)
			kr_vault_raise_sealed(lost);
		keyring = kr_keyring_create();
	}
	if (!keyring->loaded)
		kr_vault_raise_sealed(NULL);
	return keyring;
}

/* One that wraps some data key and is not in place, or NULL. */
static char *
missing_root_key(void)
{
	List	   *used = kr_rows_root_keys();

	for (int i = 0; i < list_length(used); i++)
	{
		if (!kr_keyring_has(list_nth(used, i)))
			return list_nth(used, i);
	}
	return NULL;
}

static char *
root_keys_in_place(const KrKeyringState *keyring)
{
	StringInfoData ids;

	initStringInfo(&ids);
	for (int i = 0; i < keyring->number; i++)
		appendStringInfo(&ids, "%s%s", i > 0 ? ", " : "", keyring->root_key_ids[i]);
	return ids.data;
}

/*
 * Where the key lies is for the log and for vault.status(), not for whoever
 * has asked.
 */
void
kr_vault_raise_sealed(const char *wanted)
{
	const KrKeyringState *keyring = kr_keyring_state();

	if (keyring->loaded)
		ereport(ERROR,
				(errcode(KR_ERR_VAULT_SEALED),
				 errmsg("the vault is sealed"),
				 errdetail_plural("It wants the root key %s; the one in place is %s.",
								  "It wants the root key %s; those in place are %s.",
								  keyring->number, wanted, root_keys_in_place(keyring)),
				 errhint("Put the right root key in place. SELECT * FROM vault.status() tells more.")));
	ereport(ERROR,
			(errcode(KR_ERR_VAULT_SEALED),
			 errmsg("the vault is sealed"),
			 wanted ? errdetail("The root key %s is not at hand.", wanted) :
			 errdetail("No root key is at hand."),
			 errdetail_log("%s", keyring->problem.detail),
			 errhint("Put the root key in place. SELECT * FROM vault.status() tells more.")));
}
