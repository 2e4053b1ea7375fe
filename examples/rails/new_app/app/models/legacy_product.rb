# The other application's products, read through a foreign table: see `rake -T db_connection`.
class LegacyProduct < ApplicationRecord
  self.table_name = "legacy_products"
  self.primary_key = "id"

  enum status: Product.statuses
end
