# The new application's products, read through a foreign table: see `rake -T db_connection`.
class NewProduct < ApplicationRecord
  self.table_name = "new_products"
  self.primary_key = "id"

  enum status: Product.statuses
end
